// What the commands share: exit statuses, names, one-line errors.
#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <string>

#include "hopfill/hopfill.h"

namespace hopfill::cli {

enum Status : int { done = 0, check_failed = 1, bad_input = 2, internal_fault = 3 };

Status status_of(const Error& error);

// Prints "hopfill: text" in one line on stderr.
Status report(const Error& error);

// "--backend NAME", checked when parsed.
void add_backend_option(CLI::App& command, Backend& backend, const std::vector<Backend>& allowed);
// "NAME one of f32|f16|bf16|e4m3", checked when parsed.
void add_dtype_option(CLI::App& command, const std::string& name, std::optional<DType>& dtype, const std::string& help);

// Of --max-scratch-bytes.
constexpr const char* kMaxScratchBytes = "Device memory that a run may take for copies of k and v and for outputs of parts (default no limit)";

// The GPU of --backend auto, if it is a Hopper; else cpu.
Backend resolve(Backend backend);

// Each adds its subcommand; running it sets `status`.
void add_run(CLI::App& app, Status& status);
void add_info(CLI::App& app, Status& status);
void add_plan(CLI::App& app, Status& status);
void add_check(CLI::App& app, Status& status);
void add_bench(CLI::App& app, Status& status);
void add_demo(CLI::App& app, Status& status);

}  // namespace hopfill::cli
