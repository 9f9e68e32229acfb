// The kernels that the planner chooses from, the catalogue's and then those of the first-use table, compiled for the host: instances.cpp is
// compiled in several parts, each with every kParts-th row.
#pragma once

#include "emulator/backend.h"
#include "emulator/quantize.h"
#include "plan/params.h"

namespace hopfill::emulator {

using KernelFunction = void (*)(const LaunchParams&);

constexpr int kParts = 8;
// Row `part` + kParts * i of both tables, or null past their end.
template <int Part>
KernelFunction kernel_of_part(int i);

// run() with the kernel given, and, where the launch has one before it (reads_copies()), that one's: for kernels outside the table, mutated ones
// among them.
Result<Report> run_kernel(const planner::LaunchSpec& spec, KernelFunction kernel, const Options& options, QuantizeFunction copying = nullptr);

}  // namespace hopfill::emulator
