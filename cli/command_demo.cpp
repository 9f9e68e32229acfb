// hopfill demo: the Llama-2-7B geometry on every backend present, timed and checked.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "options.h"
#include "workload.h"

namespace hopfill::cli {
namespace {

using nlohmann::json;

struct DemoCase {
    Backend backend = Backend::cpu;
    std::int64_t sequences = 1, length = 512, heads = 32;
};

struct Row {
    DemoCase what;
    std::string kernel;
    Timing timing;
    double tflops = 0;
    check::Outcome outcome;
};

std::string title(const DemoCase& c) { return fmt::format("{}x{}, {} head{}", c.sequences, c.length, c.heads, c.heads == 1 ? "" : "s"); }

std::vector<DemoCase> cases_of(const std::vector<Backend>& backends) {
    std::vector<DemoCase> out;
    for (const Backend backend : backends) {
        if (backend == Backend::oracle) continue;
        // The emulator runs every thread of every warp: one head of one sequence is enough to see the kernel at work.
        if (backend == Backend::emulated) {
            out.push_back({backend, 1, 512, 1});
            continue;
        }
        for (const std::int64_t sequences : {1, 2, 4}) out.push_back({backend, sequences, 512, 32});
    }
    return out;
}

Result<Row> run_case(const DemoCase& c) {
    Shape shape;
    shape.heads = shape.kv_heads = c.heads;
    shape.q_lens = shape.kv_lens = std::vector<std::int64_t>(static_cast<std::size_t>(c.sequences), c.length);
    Row row{c, "", {}, 0, {}};

    check::Case checked;
    checked.dtype = checked.kv_dtype = checked.out_dtype = shape.dtype;
    checked.causal = shape.causal;
    checked.heads = checked.kv_heads = c.heads;
    checked.head_dim = shape.head_dim;
    checked.q_lens = checked.kv_lens = shape.q_lens;
    row.outcome = check::run_case(checked, *target_of(c.backend));

    Result<Workload> workload = Workload::make(shape, c.backend, 1);
    if (!workload) return workload.error();
    Result<Plan> made = plan_for(*workload, c.backend);
    if (!made) return made.error();
    Result<Timing> timing = time(*made, workload->tensors(), c.backend == Backend::emulated ? 1 : 5);
    if (!timing) return timing.error();
    row.kernel = made->kernel;
    row.timing = *timing;
    row.tflops = shape.flops() / timing->us / 1e6;
    return row;
}

json to_json(const Row& row) {
    return {{"event", "row"},
            {"backend", name_of(row.what.backend)},
            {"machine", machine_name(row.what.backend)},
            {"case", title(row.what)},
            {"sequences", row.what.sequences},
            {"length", row.what.length},
            {"heads", row.what.heads},
            {"kernel", row.kernel.empty() ? json(nullptr) : json(row.kernel)},
            {"us", row.timing.us},
            {"us_spread", row.timing.us_spread},
            {"tflops", row.tflops},
            {"max_err", row.outcome.o.max},
            {"rms_err", row.outcome.o.rms},
            {"bound_used", row.outcome.o.used},
            {"passed", row.outcome.status == check::Outcome::Status::passed},
            {"text", row.outcome.text}};
}

void print(const Row& row) {
    fmt::print("{:<9}  {:<16}  {:>12.1f}  {:>9.4g}  {:>9.2e}  {:>9.2e}  {}\n", name_of(row.what.backend), title(row.what), row.timing.us, row.tflops,
               row.outcome.o.max, row.outcome.o.rms, row.outcome.status == check::Outcome::Status::passed ? "yes" : "NO: " + row.outcome.text);
}

Status run_demo(bool as_json) {
    const std::vector<DemoCase> cases = cases_of(info().backends);
    if (!as_json)
        fmt::print("Llama-2-7B attention: head dimension 128, causal, bf16\n{:<9}  {:<16}  {:>12}  {:>9}  {:>9}  {:>9}  right\n", "backend", "case",
                   "us", "TFLOP/s", "max err", "rms err");
    bool passed = true;
    for (std::size_t i = 0; i < cases.size(); ++i) {
        if (as_json) {
            fmt::print("{}\n", json{{"event", "step"},
                                    {"done", i},
                                    {"total", cases.size()},
                                    {"text", fmt::format("{} {}", name_of(cases[i].backend), title(cases[i]))}}
                                   .dump());
            std::fflush(stdout);
        }
        const Result<Row> row = run_case(cases[i]);
        if (!row) return report(row.error());
        passed = passed && row->outcome.status == check::Outcome::Status::passed;
        if (as_json) {
            fmt::print("{}\n", to_json(*row).dump());
        } else {
            print(*row);
        }
        std::fflush(stdout);
    }
    return passed ? done : check_failed;
}

}  // namespace

void add_demo(CLI::App& app, Status& status) {
    auto as_json = std::make_shared<bool>(false);
    CLI::App* command = app.add_subcommand("demo", "Llama-2-7B attention on every backend present: times, and errors against the oracle");
    command->add_flag("--json", *as_json, "One JSON object a line: steps and rows");
    command->callback([as_json, &status] { status = run_demo(*as_json); });
}

}  // namespace hopfill::cli
