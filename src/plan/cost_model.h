// How long a kernel takes: what choose() compares.
#pragma once

#include "hopfill/attention.h"
#include "plan/kernel_config.h"

namespace hopfill::planner {

/// Microseconds that a kernel takes for a problem, launch included: on an H100 within 10% of every measurement in bench/results (a test holds it to
/// that). Elsewhere its times scale with the number of multiprocessors alone; what choose() needs is their order. Lengths of ragged sequences are not
/// known to a plan: all are taken to be as long as their mean.
double modelled_us(const KernelConfig& config, const AttentionProblem& problem, const DeviceInfo& device);

}  // namespace hopfill::planner
