// hopfill check: problems against the oracle.
#include <fmt/format.h>
#include <unistd.h>

#include "buffer.h"
#include "options.h"

namespace hopfill::cli {
namespace {

struct Arguments {
    check::Options options;
    std::string one_case;
    bool grid = false;
};

void show_progress(std::int64_t done, std::int64_t total) {
    static const bool terminal = ::isatty(STDERR_FILENO) == 1;
    if (terminal) fmt::print(stderr, "\r{} of {} cases{}", done, total, done == total ? "\n" : "");
}

Result<check::Summary> run(const Arguments& a, check::Target& target) {
    std::int64_t done = 0;
    const auto progress_to = [&done](std::int64_t total) {
        return [&done, total](std::int64_t, const check::Case&, const check::Outcome&) { show_progress(++done, total); };
    };
    if (a.grid) {
        const std::vector<check::Case> grid = check::evidence_grid();
        return check::run(grid, target, a.options.run, progress_to(static_cast<std::int64_t>(grid.size())));
    }
    if (!a.one_case.empty()) {
        Result<check::Case> parsed = check::parse_case(a.one_case);
        if (!parsed) return parsed.error();
        return check::run({*parsed}, target, a.options.run);
    }
    return check::run(a.options, target, progress_to(a.options.cases));
}

Status run_check(const Arguments& a) {
    if (a.options.backend == Backend::sm90) {
        if (Result<DeviceInfo> gpu = current_device(); !gpu) return report(gpu.error());
    }
    const std::unique_ptr<check::Target> target = target_of(a.options.backend);
    const Result<check::Summary> summary = run(a, *target);
    if (!summary) return report(summary.error());
    for (const std::string& line : summary->failures) fmt::print("{}\n", line);
    if (!summary->worst_case.empty()) {
        fmt::print("worst: {:.3f} of the bound for o, {:.3f} for lse; o in {}\n", summary->worst_o, summary->worst_lse, summary->worst_case);
    }
    if (summary->skipped > 0)
        fmt::print("{} skipped: the {} backend says that it does not compute them\n", summary->skipped, name_of(a.options.backend));
    fmt::print("{} passed, {} failed\n", summary->passed, summary->failed);
    return summary->failed > 0 ? check_failed : done;
}

}  // namespace

void add_check(CLI::App& app, Status& status) {
    auto a = std::make_shared<Arguments>();
    a->options.backend = Backend::automatic;
    CLI::App* command = app.add_subcommand("check", "Random problems against the float64 oracle");
    add_backend_option(*command, a->options.backend, {Backend::automatic, Backend::cpu, Backend::sm90, Backend::emulated, Backend::oracle});
    command->add_option("--seed", a->options.seed, "Of the problems")->capture_default_str();
    command->add_option("--first", a->options.first, "Index of the first problem")->capture_default_str()->check(CLI::NonNegativeNumber);
    command->add_option("--cases", a->options.cases, "How many")->capture_default_str()->check(CLI::PositiveNumber);
    command->add_option("--schedules", a->options.run.schedules, "Emulated: random schedules of each problem")
        ->capture_default_str()
        ->check(CLI::PositiveNumber);
    command->add_option("--features", a->options.features, fmt::format("\"all\" or a list of {}", fmt::join(check::feature_names(), ",")))
        ->capture_default_str();
    command->add_option("--max-seq", a->options.max_seq, "Longest sequence (default: the backend's)")->check(CLI::PositiveNumber);
    CLI::Option* one = command->add_option("--case", a->one_case, "One problem, as a failure prints it");
    command->add_flag("--grid", a->grid, "The grid that evidence records instead of random problems")->excludes(one);
    command->callback([a, &status] {
        a->options.backend = resolve(a->options.backend);
        status = run_check(*a);
    });
}

}  // namespace hopfill::cli
