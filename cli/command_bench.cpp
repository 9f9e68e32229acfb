// hopfill bench: times of our kernels over a grid, one JSON object a line (fields: DESIGN.md, 'Evidence').
#include <fmt/format.h>

#include <cstdio>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "options.h"
#include "workload.h"

namespace hopfill::cli {
namespace {

using nlohmann::json;

struct Arguments {
    Backend backend = Backend::automatic;
    std::string grid = "headline", grids_file, run_id;
    std::optional<DType> dtype;
    int rounds = 5;
    std::int64_t error_rows = 16;
    std::uint64_t seed = 1;
};

struct BenchCase {
    std::string grid, name;
    Shape shape;
};

// The geometry of the first users' complaint: Llama-2-7B, short prompts.
std::vector<BenchCase> headline(DType dtype) {
    std::vector<BenchCase> out;
    for (const auto& [batch, length] : {std::pair<int, int>{1, 128}, {1, 256}, {1, 512}, {2, 512}, {4, 512}, {1, 1024}, {1, 2048}}) {
        Shape shape;
        shape.dtype = shape.out_dtype = dtype;
        shape.q_lens = shape.kv_lens = std::vector<std::int64_t>(static_cast<std::size_t>(batch), length);
        out.push_back({"headline", fmt::format("{}x{} h32/32 d128 causal", batch, length), shape});
    }
    return out;
}

Error fault(std::string message) { return {Code::invalid_argument, "--grids", std::move(message)}; }

// bench/grids.json: the cases that name "hopfill" among their implementations.
Result<std::vector<BenchCase>> read_grids(const Arguments& a, DType dtype) {
    std::ifstream file(a.grids_file);
    if (!file) return Error{Code::io, a.grids_file, "cannot be read"};
    const json root = json::parse(file, nullptr, false);
    if (root.is_discarded()) return fault(a.grids_file + " is not JSON");
    std::vector<BenchCase> out;
    try {
        for (const json& c : root.at("cases")) {
            const std::string grid = c.at("grid");
            if (a.grid != "all" && grid != a.grid) continue;
            if (c.at("dtype") != name_of(dtype) || c.at("out_dtype") != name_of(dtype) || c.at("head_dim_qk") != c.at("head_dim_vo")) continue;
            const std::vector<std::string> implementations = c.at("implementations");
            if (std::find(implementations.begin(), implementations.end(), "hopfill") == implementations.end()) continue;
            Shape shape;
            shape.dtype = shape.out_dtype = dtype;
            shape.packed = c.at("layout") == "packed";
            shape.causal = c.at("causal");
            shape.heads = c.at("heads");
            shape.kv_heads = c.at("kv_heads");
            shape.head_dim = c.at("head_dim_qk");
            if (shape.packed) {
                shape.q_lens = c.at("lengths_q").get<std::vector<std::int64_t>>();
                shape.kv_lens = c.at("lengths_kv").get<std::vector<std::int64_t>>();
            } else {
                const std::int64_t batch = c.at("batch"), tokens_q = c.at("tokens_q"), tokens_kv = c.at("tokens_kv");
                if (batch < 1) return fault("has a case with batch " + std::to_string(batch));
                shape.q_lens.assign(static_cast<std::size_t>(batch), tokens_q / batch);
                shape.kv_lens.assign(static_cast<std::size_t>(batch), tokens_kv / batch);
            }
            if (shape.q_lens.size() != shape.kv_lens.size()) return fault("has a case whose lengths_q and lengths_kv differ in number");
            out.push_back({grid, c.at("case"), shape});
        }
    } catch (const json::exception& error) {
        return fault(error.what());
    }
    return out;
}

struct Measured {
    Plan plan;
    Timing timing;
    check::RowErrors errors;
};

Result<Measured> measure(const BenchCase& c, Backend backend, const Arguments& a) {
    Result<Workload> workload = Workload::make(c.shape, backend, a.seed);
    if (!workload) return workload.error();
    Result<Plan> made = plan_for(*workload, backend);
    if (!made) return made.error();
    Result<Timing> timing = time(*made, workload->tensors(), a.rounds);
    if (!timing) return timing.error();
    // Of the last of the timed launches.
    Result<check::RowErrors> errors = workload->errors(a.error_rows);
    if (!errors) return errors.error();
    return Measured{*made, *timing, *errors};
}

json row_of(const BenchCase& c, const Result<Measured>& measured, const std::map<std::string, std::string>& keys) {
    const Shape& s = c.shape;
    json row = {{"grid", c.grid},
                {"case", c.name},
                {"dtype", name_of(s.dtype)},
                {"out_dtype", name_of(s.out_dtype)},
                {"head_dim_qk", s.head_dim},
                {"head_dim_vo", s.head_dim},
                {"heads", s.heads},
                {"kv_heads", s.kv_heads},
                {"batch", s.q_lens.size()},
                {"tokens_q", s.tokens_q()},
                {"tokens_kv", s.tokens_kv()},
                {"causal", s.causal},
                {"kernel", nullptr},
                {"key", nullptr},
                {"us", nullptr},
                {"us_spread", nullptr},
                {"host_us", nullptr},
                {"tflops", nullptr},
                {"rms_err", nullptr},
                {"max_err", nullptr},
                {"note", nullptr}};
    if (!measured) {
        row["note"] = measured.error().text();
        return row;
    }
    if (!measured->plan.kernel.empty()) {
        row["kernel"] = measured->plan.kernel;
        if (const auto key = keys.find(measured->plan.kernel); key != keys.end() && !key->second.empty()) row["key"] = key->second;
    }
    row["us"] = measured->timing.us;
    row["us_spread"] = measured->timing.us_spread;
    row["host_us"] = measured->timing.host_us;
    row["tflops"] = s.flops() / measured->timing.us / 1e6;
    if (measured->errors.rows > 0) {
        row["rms_err"] = measured->errors.rms;
        row["max_err"] = measured->errors.max;
    }
    return row;
}

Status run_bench(const Arguments& a) {
    const Backend backend = resolve(a.backend);
    const DType dtype = a.dtype.value_or(DType::bf16);
    if (a.grids_file.empty() && a.grid != "headline")
        return report(fault(fmt::format("is needed for the grid \"{}\"; without it there is headline", a.grid)));
    const Result<std::vector<BenchCase>> cases = a.grids_file.empty() ? headline(dtype) : read_grids(a, dtype);
    if (!cases) return report(cases.error());
    if (cases->empty()) return report(fault(fmt::format("has no {} case of the grid \"{}\" for hopfill", name_of(dtype), a.grid)));
    const Info about = info();
    if (backend == Backend::sm90 && !about.gpu) return report({Code::unavailable, "backend", "sm90 needs a GPU: " + about.driver});
    std::map<std::string, std::string> keys;
    for (const KernelInfo& k : about.kernels) keys[k.name] = k.key;
    const json head = {{"run", a.run_id.empty() ? fmt::format("{}-{}", today(), name_of(backend)) : a.run_id},
                       {"gpu", machine_name(backend)},
                       {"date", today()},
                       {"impl", backend == Backend::sm90 ? "hopfill" : fmt::format("hopfill-{}", name_of(backend))},
                       {"version", about.version}};
    for (const BenchCase& c : *cases) {
        const Result<Measured> measured = measure(c, backend, a);
        if (!measured && status_of(measured.error()) == internal_fault) return report(measured.error());
        json row = head;
        row.update(row_of(c, measured, keys));
        fmt::print("{}\n", row.dump());
        std::fflush(stdout);
    }
    return done;
}

}  // namespace

void add_bench(CLI::App& app, Status& status) {
    auto a = std::make_shared<Arguments>();
    CLI::App* command = app.add_subcommand("bench", "Times our kernels over a grid; one JSON object a line");
    add_backend_option(*command, a->backend, {Backend::automatic, Backend::cpu, Backend::sm90, Backend::emulated, Backend::oracle});
    command->add_option("--grids", a->grids_file, "Cases from a file like bench/grids.json");
    command->add_option("--grid", a->grid, "The cases of one grid, or \"all\"")->capture_default_str();
    add_dtype_option(*command, "--dtype", a->dtype, "Type of the tensors (default bf16)");
    command->add_option("--rounds", a->rounds, "Measurements, of which the median counts")->capture_default_str()->check(CLI::PositiveNumber);
    command->add_option("--error-rows", a->error_rows, "Rows of o compared with float64 in each case; 0: none, and no errors in the output")
        ->capture_default_str()
        ->check(CLI::NonNegativeNumber);
    command->add_option("--seed", a->seed, "Of the tensors")->capture_default_str();
    command->add_option("--run", a->run_id, "Name of the run in its rows (default: date and backend)");
    command->callback([a, &status] { status = run_bench(*a); });
}

}  // namespace hopfill::cli
