// The command `hopfill`. Exit status: 0 done, 1 a check failed, 2 bad input or usage, 3 internal.
#include <fmt/format.h>

#include <cstdio>
#include <exception>

#include "options.h"

int main(int argc, char** argv) {
    using namespace hopfill::cli;
    Status status = done;
    CLI::App app("Prefill attention for NVIDIA Hopper: o = softmax(scale q k^T + mask) v", "hopfill");
    app.require_subcommand(1);
    add_run(app, status);
    add_info(app, status);
    add_check(app, status);
    add_bench(app, status);
    add_plan(app, status);
    add_demo(app, status);
    try {
        app.parse(argc, argv);
    } catch (const CLI::ParseError& error) {
        if (error.get_exit_code() == static_cast<int>(CLI::ExitCodes::Success)) return app.exit(error);  // --help
        fmt::print(stderr, "hopfill: {}\n", error.what());
        return bad_input;
    } catch (const std::exception& error) {
        fmt::print(stderr, "hopfill: {}\n", error.what());
        return internal_fault;
    }
    if (std::fflush(stdout) != 0) {
        fmt::print(stderr, "hopfill: standard output cannot be written\n");
        return bad_input;
    }
    return status;
}
