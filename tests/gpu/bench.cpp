// hopfill_gpu_bench: times kernels by graph replay, whichever the planner would choose, and checks each against float64 on a small problem first.
// A kernel that hangs or faults takes its process with it: a supervisor notes the kernel and goes on without it.
#include <fmt/format.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <sstream>
#include <thread>

#include "bench_problem.h"
#include "cuda/loader.h"
#include "cuda/timing.h"
#include "gpu_target.h"
#include "tuning_blob.h"
#include "watchdog.h"

extern char** environ;

namespace hopfill::gpu {
namespace {

constexpr const char* kUsage =
    "usage: hopfill_gpu_bench [--variants REGEX] [--heads N,N] [--parts N,N] [--sms N] [--rounds N] [--json FILE] [--no-check] [--programmatic] "
    "[--pause MS] [--list] [--file FILE] PROBLEM...\n"
    "  PROBLEM   'bf16 d128 h32/8 b4 s4096 causal' (kv8192, packed, len=100,200, lse); a FILE has one a line\n"
    "  --variants  also kernels that the planner does not choose: all whose name has a match; without it the planner's own\n"
    "  --heads     also these numbers of query heads whose tiles run together (Plan::heads_per_group), beside the planner's\n"
    "  --parts     kernels that split jobs also with so many parts, of all jobs, half, a quarter ... an eighth of those that can be split\n"
    "  --sms       plans as for a GPU of N multiprocessors (78: an H20), no more of which are used than the blocks of a grid\n";

struct Arguments {
    std::string variants, json, state;
    std::vector<std::string> problems;
    std::vector<int> heads, parts;
    int rounds = 7, pause_ms = 0, sms = 0;
    bool check = true, programmatic = false, list = false;
};

bool parse(int count, char** words, Arguments& a) {
    for (int i = 1; i < count; ++i) {
        const std::string word = words[i];
        if (!word.starts_with("--")) {
            a.problems.push_back(word);
        } else if (word == "--no-check") {
            a.check = false;
        } else if (word == "--programmatic") {
            a.programmatic = true;
        } else if (word == "--list") {
            a.list = true;
        } else if (++i == count) {
            return false;
        } else if (word == "--variants") {
            a.variants = words[i];
        } else if (word == "--heads" || word == "--parts") {
            std::vector<int>& numbers = word == "--heads" ? a.heads : a.parts;
            std::istringstream in(words[i]);
            for (std::string n; std::getline(in, n, ',');) {
                numbers.push_back(std::atoi(n.c_str()));
                if (numbers.back() < 1) return false;
            }
        } else if (word == "--json") {
            a.json = words[i];
        } else if (word == "--state") {
            a.state = words[i];
        } else if (word == "--rounds") {
            a.rounds = std::max(1, std::atoi(words[i]));
        } else if (word == "--sms") {
            a.sms = std::max(1, std::atoi(words[i]));
        } else if (word == "--pause") {
            a.pause_ms = std::atoi(words[i]);
        } else if (word == "--file") {
            std::ifstream in(words[i]);
            for (std::string line; std::getline(in, line);)
                if (!line.empty() && line[0] != '#') a.problems.push_back(line);
        } else {
            return false;
        }
    }
    return a.list || !a.problems.empty();
}

// What survives a child: kernels that failed ("bad NAME"), problems that are done ("done INDEX"), kernels that are right ("good NAME").
class State {
public:
    explicit State(std::string path) : path_(std::move(path)) {
        std::ifstream in(path_);
        for (std::string word, rest; in >> word && std::getline(in >> std::ws, rest);) sets_[word].insert(rest);
    }
    [[nodiscard]] bool has(const std::string& word, const std::string& what) const {
        const auto found = sets_.find(word);
        return found != sets_.end() && found->second.contains(what);
    }
    void add(const std::string& word, const std::string& what) {
        sets_[word].insert(what);
        std::ofstream(path_, std::ios::app) << word << ' ' << what << '\n';
    }

private:
    std::string path_;
    std::map<std::string, std::set<std::string>> sets_;
};

struct Candidate {
    int variant;
    std::string name;
    int heads = 0;           // that run together; 0: the planner's number
    planner::Split split{};  // no jobs: the planner's

    [[nodiscard]] bool planned() const { return heads == 0 && split.jobs == 0; }
    [[nodiscard]] std::string label() const {
        return name + (heads > 0 ? fmt::format(" heads {}", heads) : "") + (split.jobs > 0 ? fmt::format(" {} in {}", split.jobs, split.parts) : "");
    }
};

// What --parts asks for: jobs by halves down to an eighth, whole tiles of all heads, the longest first.
void add_splits(std::vector<Candidate>& list, const Candidate& of, const AttentionProblem& p, int parts) {
    const KernelConfig& c = planner::kernel_at(of.variant);
    if (!c.splits || parts < 2) return;
    const std::int64_t most = planner::splittable_jobs(c, p, parts), width = p.heads * p.batch;
    std::int64_t before = 0;
    for (const int share : {8, 4, 2, 1}) {
        const std::int64_t jobs = most / share / width * width;
        if (jobs > before) list.push_back({of.variant, of.name, 0, {jobs, parts}});
        before = std::max(before, jobs);
    }
}

std::vector<Candidate> candidates(const AttentionProblem& problem, const DeviceInfo& device, const std::string& pattern) {
    std::vector<Candidate> list;
    if (pattern.empty()) {
        const auto chosen = planner::choose(problem, device);
        if (!chosen) {
            fmt::print("  {}\n", chosen.error().text());
            return list;
        }
        list.push_back({chosen->variant, chosen->kernel});
        return list;
    }
    const std::regex wanted(pattern);
    for (int i = 0; i < planner::variants(); ++i) {
        const std::string name = planner::kernel_name(planner::kernel_at(i));
        const bool known = std::ranges::any_of(list, [&](const Candidate& c) { return c.name == name; });
        if (known || !std::regex_search(name, wanted) || !planner::plan_variant(problem, device, i)) continue;
        if (const auto image = cuda::image_for(planner::kernel_at(i)); !image)
            fmt::print("  {}\n", image.error().text());
        else
            list.push_back({i, name});
    }
    return list;
}

[[noreturn]] void give_up_on(State& state, const std::string& kernel, const std::string& why) {
    fmt::print("  {}: {}\n", kernel, why);
    state.add("bad", kernel);
    std::fflush(nullptr);
    _exit(4);
}

// True when the kernel is right on small problems.
bool check_kernel(const BenchProblem& b, const Candidate& c, bool programmatic, State& state) {
    const std::string kind = fmt::format("{} d{}", c.name, b.problem.head_dim);
    if (state.has("good", kind)) return true;
    if (state.has("wrong", kind)) return false;
    GpuTarget target(c.variant, programmatic);
    double used = 0;
    for (const check::Case& small : b.small_cases()) {
        target.label(fmt::format("check of {}: {}", c.name, check::to_string(small)));
        const check::Outcome outcome = check::run_case(small, target);
        used = std::max(used, outcome.o.used);
        if (outcome.status == check::Outcome::Status::passed) continue;
        fmt::print("  {} WRONG: {}: {}\n", c.name, check::to_string(small), outcome.text);
        state.add("wrong", kind);
        // A device error is the context's last: start again without this kernel.
        if (!cuda::synchronize(nullptr)) give_up_on(state, c.name, "the context is lost");
        return false;
    }
    fmt::print("  {} right, {:.2f} of the tolerance\n", c.name, used);
    state.add("good", kind);
    return true;
}

struct Row {
    Candidate candidate;
    std::vector<double> us;
    cuda::ReplayTimer timer;
    double host_us = 0;
    planner::Split split{};
};

// Of up to 64 launches: fewer where the GPU takes long for them.
double host_time(const planner::LaunchSpec& spec, bool programmatic) {
    std::vector<double> us;
    const auto enough = std::chrono::steady_clock::now() + std::chrono::milliseconds(50);
    for (int i = 0; i < 64; ++i) {
        if (i % 8 == 0 && i > 0 && std::chrono::steady_clock::now() > enough) break;
        const auto begin = std::chrono::steady_clock::now();
        if (!cuda::launch(spec, nullptr, {programmatic})) return 0;
        us.push_back(std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - begin).count());
        if (i % 8 == 7 && !cuda::synchronize(nullptr)) return 0;
    }
    return cuda::median(us);
}

// `chosen`: the planner's kernel, or nothing.
void report(const BenchProblem& b, std::vector<Row>& rows, const std::string& chosen, const Arguments& a) {
    std::ranges::sort(rows, {}, [](const Row& r) { return cuda::median(r.us); });
    std::ofstream json;
    if (!a.json.empty()) json.open(a.json, std::ios::app);
    const double best = rows.empty() ? 1 : cuda::median(rows.front().us);
    for (const Row& r : rows) {
        const double us = cuda::median(r.us), spread = *std::ranges::max_element(r.us) - *std::ranges::min_element(r.us),
                     tflops = b.flops() / us * 1e-6;
        const bool is_chosen = r.candidate.name == chosen && r.candidate.planned();
        const std::string name = r.candidate.label();
        fmt::print("  {:46} {:>10.2f} us  +-{:>6.2f}  {:>7.1f} TFLOP/s  {:>5.3f}  host {:.1f} us  x{}{}\n", name, us, spread, tflops, best / us,
                   r.host_us, r.timer.launches(), is_chosen ? "  chosen" : "");
        if (json)
            json
                << fmt::format(
                       R"({{"problem": "{}", "kernel": "{}", "us": {:.3f}, "us_spread": {:.3f}, "tflops": {:.2f}, "host_us": {:.2f}, "rounds": {}, )"
                       R"("sms": {}, "heads": {}, "split_jobs": {}, "parts": {}, "chosen": {}}})",
                       b.text, r.candidate.name, us, spread, tflops, r.host_us, r.us.size(), a.sms, r.candidate.heads, r.split.jobs, r.split.parts,
                       is_chosen)
                << '\n';
    }
    std::fflush(stdout);
}

void bench(const BenchProblem& b, BenchTensors& memory, const DeviceInfo& device, const Arguments& a, State& state) {
    fmt::print("{}\n", b.text);
    std::vector<Candidate> list = candidates(b.problem, device, a.variants);
    std::erase_if(list, [&](const Candidate& c) { return state.has("bad", c.name); });
    std::string current;
    on_expiry([&](const std::string&) { state.add("bad", current); });
    if (a.check)
        std::erase_if(list, [&](const Candidate& c) {
            current = c.name;
            return !check_kernel(b, c, a.programmatic, state);
        });
    // (The heads of a ragged batch do not run in groups.)
    const std::int64_t all_heads = b.problem.packed ? 0 : b.problem.heads * b.problem.batch;
    for (const Candidate& c : std::vector<Candidate>(list))
        for (const int heads : a.heads)
            if (heads <= all_heads) list.push_back({c.variant, c.name, heads});
    for (const Candidate& c : std::vector<Candidate>(list))
        for (const int parts : a.parts)
            if (c.heads == 0) add_splits(list, c, b.problem, parts);
    watch("making inputs", std::chrono::seconds(120));
    const auto tensors = memory.make(b);
    if (!tensors) {
        fmt::print("  {}\n", tensors.error().text());
        return;
    }
    std::vector<Row> rows;
    for (const Candidate& c : list) {
        current = c.name;
        watch(fmt::format("{} on {}", c.name, b.text), std::chrono::seconds(20));
        auto plan = planner::plan_variant(b.problem, device, c.variant);
        if (!plan) continue;
        if (c.heads > 0) plan->heads_per_group = c.heads;
        if (c.split.jobs > 0) plan = planner::with_split(std::move(*plan), c.split, device.num_sms);
        const auto spec = planner::make_launch(*plan, *tensors);
        if (!spec) {
            fmt::print("  {}: {}\n", c.name, spec.error().text());
            continue;
        }
        auto timer = cuda::ReplayTimer::make([&](Stream stream) { return cuda::launch(*spec, stream, {a.programmatic}); });
        if (!timer) give_up_on(state, c.name, timer.error().text());
        rows.push_back({c, {}, std::move(*timer), host_time(*spec, a.programmatic), {plan->split_jobs, plan->parts}});
    }
    for (int round = 0; round < a.rounds; ++round) {
        // There and back: who comes later finds a warmer GPU, whose clock is lower.
        for (std::size_t i = 0; i < rows.size(); ++i) {
            Row& r = rows[round % 2 == 0 ? i : rows.size() - 1 - i];
            current = r.candidate.name;
            watch(fmt::format("{} on {}", current, b.text), std::chrono::seconds(20));
            if (a.pause_ms > 0) std::this_thread::sleep_for(std::chrono::milliseconds(a.pause_ms));
            const auto us = r.timer.round();
            if (!us) give_up_on(state, current, us.error().text());
            r.us.push_back(*us);
        }
    }
    stop_watching();
    const auto chosen = planner::choose(b.problem, device);
    report(b, rows, chosen ? chosen->kernel : "", a);
}

// One block of one thread that does nothing: what a launch costs.
void time_empty_kernel() {
    constexpr const char* ptx = ".version 7.8\n.target sm_90\n.address_size 64\n.visible .entry empty() { ret; }\n";
    const auto cu = cuda::driver();
    if (!cu) return;
    cuda::CUmodule module = nullptr;
    cuda::CUfunction empty = nullptr;
    if ((*cu)->cuModuleLoadData(&module, ptx) != 0 || (*cu)->cuModuleGetFunction(&empty, module, "empty") != 0) return;
    const auto launch = [&](Stream stream) {
        const cuda::CUlaunchConfig config{1, 1, 1, 32, 1, 1, 0, static_cast<cuda::CUstream>(stream), nullptr, 0};
        return (*cu)->check((*cu)->cuLaunchKernelEx(&config, empty, nullptr, nullptr), "empty kernel");
    };
    auto timer = cuda::ReplayTimer::make(launch, 40);
    if (!timer) return;
    std::vector<double> us;
    for (int i = 0; i < 9; ++i)
        if (const auto round = timer->round()) us.push_back(*round);
    fmt::print("empty kernel: {:.2f} us a launch in a graph of 40\n", cuda::median(us));
}

int child(const Arguments& a) {
    State state(a.state);
    cuda::add_catalogue(tuning_catalogue());
    watch("opening the GPU", std::chrono::seconds(60));
    auto device = cuda::current_device();
    stop_watching();
    if (!device) {
        fmt::print("no GPU: {}\n", device.error().text());
        return 0;
    }
    if (!state.has("done", "header")) {
        fmt::print("{}, {} SMs, CUDA {}\n", device->name, device->num_sms, cuda::versions().driver);
        time_empty_kernel();
        state.add("done", "header");
    }
    if (a.sms > 0) device->num_sms = std::min(device->num_sms, a.sms);
    BenchTensors memory;
    for (std::size_t i = 0; i < a.problems.size(); ++i) {
        if (state.has("done", std::to_string(i))) continue;
        if (const auto problem = parse_problem(a.problems[i]))
            bench(*problem, memory, *device, a, state);
        else
            fmt::print("{}\n", problem.error().text());
        state.add("done", std::to_string(i));
    }
    return 0;
}

int supervise(int count, char** words) {
    char path[] = "/tmp/hopfill_gpu_bench.XXXXXX";
    const int fd = mkstemp(path);
    if (fd < 0) return 3;
    close(fd);
    std::vector<char*> arguments(words, words + count);
    std::string flag = "--state";
    arguments.insert(arguments.end(), {flag.data(), path, nullptr});
    int status = 0;
    for (int attempt = 0; attempt < 40; ++attempt) {
        std::fflush(nullptr);
        pid_t pid = 0;
        if (posix_spawn(&pid, "/proc/self/exe", nullptr, nullptr, arguments.data(), environ) != 0) return 3;
        waitpid(pid, &status, 0);
        const bool again = WIFSIGNALED(status) || (WIFEXITED(status) && (WEXITSTATUS(status) == 4 || WEXITSTATUS(status) == 124));
        if (!again) break;
        fmt::print("(started again without the kernel that failed)\n");
    }
    unlink(path);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 3;
}

}  // namespace
}  // namespace hopfill::gpu

int main(int count, char** words) {
    using namespace hopfill;
    gpu::Arguments a;
    if (!gpu::parse(count, words, a)) {
        std::fputs(gpu::kUsage, stderr);
        return 2;
    }
    if (a.list) {
        const int chosen = planner::variants() - static_cast<int>(planner::tuning_table().size());
        for (int i = 0; i < planner::variants(); ++i)
            fmt::print("{:3} {}{}\n", i, planner::kernel_name(planner::kernel_at(i)), i < chosen ? "" : "  (tuning)");
        return 0;
    }
    return a.state.empty() ? gpu::supervise(count, words) : gpu::child(a);
}
