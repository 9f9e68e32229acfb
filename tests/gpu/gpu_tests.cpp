// hopfill_gpu_tests: correctness on a real GPU, judged by hopfill::check; skips where there is none.
//   HOPFILL_EVIDENCE_OUT   folder for the evidence/<key>.json of kernels that passed
//   HOPFILL_EVIDENCE       folder of recorded evidence, whose outputs are computed again
//   HOPFILL_GRID_LIMIT     run only this many cases of the grid, spread over it (and write no evidence)
//   HOPFILL_GRID_ONLY      run only cases in whose text this regular expression has a match, for instance '^(bf16|f16) ' where the other kernels
//                          have not changed; kernels that are without a case then get no evidence
//   HOPFILL_GRID_KERNELS   run only the cases of kernels in whose name this regular expression has a match, none of the planner's choices among them
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <map>
#include <mutex>
#include <numeric>
#include <regex>
#include <thread>

#include "bench_problem.h"
#include "cuda/digest.h"
#include "cuda/timing.h"
#include "evidence.h"
#include "gpu_target.h"
#include "watchdog.h"

namespace hopfill::gpu {
namespace {

constexpr std::size_t kRecordedOutputs = 8;
constexpr double kRecordedWork = 2e9;  // of a case that is worth computing again at each device-check

std::string variable(const char* name) {
    const char* value = std::getenv(name);
    return value != nullptr ? value : "";
}

class Gpu : public testing::Test {
protected:
    void SetUp() override {
        watch("opening the GPU", std::chrono::seconds(60));
        auto found = cuda::current_device();
        stop_watching();
        if (!found) GTEST_SKIP() << "no GPU to test on: " << found.error().text();
        if (found->sm_major != 9 || found->sm_minor != 0) GTEST_SKIP() << "the GPU is no Hopper: " << found->name;
        device = *found;
    }
    void TearDown() override { stop_watching(); }
    DeviceInfo device;
};

std::string sha256(const std::vector<std::byte>& bytes) { return cuda::sha256_hex({reinterpret_cast<const char*>(bytes.data()), bytes.size()}); }

std::string today() {
    const std::time_t now = std::time(nullptr);
    char text[16];
    std::strftime(text, sizeof(text), "%Y-%m-%d", std::gmtime(&now));
    return text;
}

// A case, and the kernel that is to run it: an index of the planner's table, or -1 for the planner's choice.
struct Task {
    check::Case c;
    int variant = -1;
};

// The grid with the planner's choices, and a few cases for each kernel, so that none goes without.
std::vector<Task> all_tasks() {
    std::vector<Task> tasks;
    for (check::Case& c : check::evidence_grid()) tasks.push_back({std::move(c), -1});
    const auto& table = planner::kernel_table();
    for (std::size_t i = 0; i < table.size(); ++i) {
        BenchProblem kind;
        kind.problem.out_dtype = table[i].out == Elem::f16 ? DType::f16 : DType::bf16;
        kind.problem.dtype = table[i].elem == Elem::e4m3 ? DType::e4m3 : kind.problem.out_dtype;
        kind.problem.kv_dtype = kv_elem(table[i]) == Elem::e4m3 ? DType::e4m3 : kind.problem.dtype;
        kind.problem.packed = table[i].packed;
        kind.problem.causal = table[i].mask == Mask::causal;
        kind.problem.head_dim = table[i].head_dim;
        kind.problem.v_transposed = table[i].v_transposed;
        for (check::Case& c : kind.small_cases()) tasks.push_back({std::move(c), static_cast<int>(i)});
    }
    return tasks;
}

double work(const check::Case& c) {
    double pairs = 0;
    for (std::size_t i = 0; i < c.q_lens.size(); ++i) pairs += static_cast<double>(c.q_lens[i]) * static_cast<double>(c.kv_lens[i] + 1000);
    return pairs * static_cast<double>(c.heads * c.head_dim);
}

struct Record {
    check::Case c;
    std::string kernel;
    check::Outcome outcome;
    std::string digest;  // SHA-256 of the output, which would take gigabytes over all cases
};

// Runs cases on all cores of the host, the longest first: building and judging take longer than the GPU.
std::vector<Record> run_all(const std::vector<Task>& tasks) {
    const auto begin = std::chrono::steady_clock::now();
    std::vector<Record> records(tasks.size());
    std::vector<std::size_t> order(tasks.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::ranges::stable_sort(order, std::greater<>(), [&](std::size_t i) { return work(tasks[i].c); });
    std::atomic<std::size_t> next = 0;
    const auto worker = [&] {
        for (std::size_t i = next++; i < order.size(); i = next++) {
            const Task& task = tasks[order[i]];
            Record& r = records[order[i]];
            r.c = task.c;
            GpuTarget target(task.variant);
            target.label(check::to_string(r.c));
            r.outcome = check::run_case(r.c, target, {1, true, 1});
            r.kernel = task.variant < 0 ? target.kernel() : planner::kernel_name(planner::kernel_at(task.variant));
            r.digest = sha256(r.outcome.output);
            r.outcome.output = {};
        }
    };
    std::vector<std::thread> workers;
    for (unsigned i = 0; i < std::max(1u, std::thread::hardware_concurrency()); ++i) workers.emplace_back(worker);
    for (std::thread& w : workers) w.join();
    fmt::print("{} cases in {:.1f} s\n", tasks.size(), std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
    return records;
}

// Launches a small problem again and again, comparing o and lse each time.
Result<int> same_bits(int variant, const DeviceInfo& device, const std::string& text, int launches) {
    const auto b = parse_problem(text);
    if (!b) return b.error();
    BenchTensors memory;
    const auto tensors = memory.make(*b);
    if (!tensors) return tensors.error();
    const auto plan = variant < 0 ? planner::choose(b->problem, device) : planner::plan_variant(b->problem, device, variant);
    if (!plan) return plan.error();
    const auto spec = planner::make_launch(variant < 0 ? *plan : split_anyway(*plan, device), *tensors);
    if (!spec) return spec.error();
    std::vector<char> first(static_cast<std::size_t>(2 * tensors->o.elements())), now(first.size());
    for (int i = 0; i < launches; ++i) {
        if (auto r = cuda::launch(*spec, nullptr); !r) return r.error();
        if (auto r = cuda::download(i == 0 ? first.data() : now.data(), tensors->o.data, first.size()); !r) return r.error();
        if (i > 0 && std::memcmp(first.data(), now.data(), first.size()) != 0) return i;
    }
    return launches;
}

TEST_F(Gpu, EvidenceGrid) {
    std::vector<Task> tasks = all_tasks();
    const std::string limit = variable("HOPFILL_GRID_LIMIT"), only = variable("HOPFILL_GRID_ONLY");
    const std::string kernels = variable("HOPFILL_GRID_KERNELS");
    if (!kernels.empty())
        std::erase_if(tasks, [e = std::regex(kernels)](const Task& t) {
            return t.variant < 0 || !std::regex_search(planner::kernel_name(planner::kernel_at(t.variant)), e);
        });
    if (!only.empty()) std::erase_if(tasks, [e = std::regex(only)](const Task& t) { return !std::regex_search(check::to_string(t.c), e); });
    if (!limit.empty()) {
        const std::size_t keep = std::max<std::size_t>(1, static_cast<std::size_t>(std::atoi(limit.c_str()))),
                          step = std::max<std::size_t>(1, tasks.size() / keep);
        std::vector<Task> fewer;
        for (std::size_t i = 0; i < tasks.size(); i += step) fewer.push_back(tasks[i]);
        tasks = std::move(fewer);
    }
    const std::vector<Record> records = run_all(tasks);
    std::map<std::string, Evidence> by_kernel;
    std::map<std::string, int> failures;
    int passed = 0, failed = 0, skipped = 0;
    for (const Record& r : records) {
        if (r.outcome.status == check::Outcome::Status::skipped) {
            ++skipped;
            continue;
        }
        if (r.outcome.status == check::Outcome::Status::failed) {
            ++failed;
            ++failures[r.kernel];
            if (failed <= 40) ADD_FAILURE() << r.kernel << ": " << check::to_string(r.c) << ": " << r.outcome.text;
            continue;
        }
        ++passed;
        Evidence& e = by_kernel[r.kernel];
        ++e.cases;
        e.worst = std::max({e.worst, r.outcome.o.used, r.outcome.lse.used});
        if (e.outputs.size() < kRecordedOutputs && work(r.c) < kRecordedWork) e.outputs.push_back({check::to_string(r.c), r.digest});
    }
    fmt::print("grid: {} passed, {} failed, {} skipped\n", passed, failed, skipped);
    EXPECT_EQ(skipped, 0);
    const std::string folder = variable("HOPFILL_EVIDENCE_OUT");
    for (const KernelInfo& k : cuda::catalogue()) {
        auto found = by_kernel.find(k.name);
        if (found == by_kernel.end()) {
            EXPECT_TRUE(!limit.empty() || !only.empty() || !kernels.empty() || failures.contains(k.name)) << "no case of the grid runs " << k.name;
            continue;
        }
        Evidence& e = found->second;
        fmt::print("  {:46} {:>4} passed, {:>3} failed, worst {:.2f} of the tolerance\n", k.name, e.cases, failures[k.name], e.worst);
        if (failures[k.name] > 0 || !limit.empty() || folder.empty()) continue;
        e.key = k.key;
        e.kernel = k.name;
        e.gpu = device.name;
        e.driver = cuda::versions().driver;
        e.date = today();
        const auto& table = planner::kernel_table();
        const auto config = std::ranges::find_if(table, [&](const KernelConfig& c) { return planner::kernel_name(c) == k.name; });
        ASSERT_NE(config, table.end()) << k.name;
        const std::string text =
            fmt::format("{}{}{} d{} h4/2 {}{}", config->out == Elem::f16 ? "f16" : "bf16",
                        kv_elem(*config) != Elem::e4m3   ? ""
                        : config->elem == Elem::e4m3     ? " e4m3"
                                                         : " kv_e4m3",
                        config->v_transposed ? " vt" : "", config->head_dim, config->packed ? "len=300,5,130" : "s300 b2",
                        config->mask == Mask::causal ? " causal" : "");
        watch("same bits of " + k.name, std::chrono::seconds(60));
        const auto same = same_bits(static_cast<int>(config - table.begin()), device, text, 1000);
        ASSERT_TRUE(same) << same.error().text();
        EXPECT_EQ(*same, 1000) << k.name << " changed its output at launch " << *same;
        e.same_bits_launches = *same;
        EXPECT_TRUE(write_evidence(folder, e)) << folder << " cannot be written";
    }
}

TEST_F(Gpu, RecordedOutputsComeAgain) {
    const std::string folder = variable("HOPFILL_EVIDENCE");
    if (folder.empty()) GTEST_SKIP() << "HOPFILL_EVIDENCE is not set";
    std::map<std::string, int> variant_of_key;
    for (const KernelInfo& k : cuda::catalogue())
        for (std::size_t i = 0; i < planner::kernel_table().size(); ++i)
            if (planner::kernel_name(planner::kernel_table()[i]) == k.name) variant_of_key[k.key] = static_cast<int>(i);
    int kernels = 0, other = 0;
    std::vector<Task> tasks;
    std::vector<std::string> wanted;
    for (const Evidence& e : read_evidence(folder)) {
        const auto variant = variant_of_key.find(e.key);
        if (variant == variant_of_key.end()) {
            ++other;
            continue;
        }
        ++kernels;
        for (const RecordedOutput& o : e.outputs) {
            const auto c = check::parse_case(o.text);
            ASSERT_TRUE(c) << e.key << ": " << o.text;
            tasks.push_back({*c, variant->second});
            wanted.push_back(o.sha256);
        }
    }
    const std::vector<Record> records = run_all(tasks);
    for (std::size_t i = 0; i < records.size(); ++i) {
        EXPECT_EQ(records[i].outcome.status, check::Outcome::Status::passed) << check::to_string(records[i].c) << ": " << records[i].outcome.text;
        EXPECT_EQ(records[i].digest, wanted[i]) << records[i].kernel << ": " << check::to_string(records[i].c);
    }
    fmt::print("evidence of {} of this build's {} kernels, {} outputs computed again; {} files are of other builds\n", kernels, variant_of_key.size(),
               records.size(), other);
}

TEST_F(Gpu, TenThousandLaunchesSameBits) {
    for (const char* text : {"bf16 d128 h16/4 s512 causal", "bf16 d128 h16/4 s512", "bf16 d64 h16 s512 causal", "f16 d256 h16/2 s512 causal",
                             "bf16 d128 h16/2 len=100,7,400,300 causal", "f16 d64 h16/16 len=100,7,400,300",
                             "bf16 kv_e4m3 d256 h16/2 s512 causal", "bf16 e4m3 d256 h32/1 s128 kv4096 causal", "bf16 d128 h8/2 s128 kv4096"}) {
        watch(fmt::format("10,000 launches of {}", text), std::chrono::seconds(120));
        const auto same = same_bits(-1, device, text, 10000);
        ASSERT_TRUE(same) << same.error().text();
        EXPECT_EQ(*same, 10000) << text << ": the output changed at launch " << *same;
    }
}

// What a plan leaves in o and lse, launched once, or three times from a graph, whose scratch memory and words are its own.
std::vector<char> outputs_of(const Plan& plan, const AttentionTensors& tensors, bool in_graph, const std::string& text) {
    const auto spec = planner::make_launch(plan, tensors);
    EXPECT_TRUE(spec);
    std::vector<char> bytes(static_cast<std::size_t>(2 * tensors.o.elements()) + static_cast<std::size_t>(4 * tensors.lse.elements()));
    const std::size_t of_lse = static_cast<std::size_t>(4 * tensors.lse.elements());
    const std::vector<char> poison(bytes.size(), '\x7f');
    EXPECT_TRUE(cuda::upload(tensors.o.data, poison.data(), bytes.size() - of_lse));
    EXPECT_TRUE(cuda::upload(tensors.lse.data, poison.data(), of_lse));
    watch(fmt::format("{} on {}", plan.kernel, text), std::chrono::seconds(60));
    if (in_graph) {
        auto graph = cuda::ReplayTimer::make([&](Stream stream) { return cuda::launch(*spec, stream); }, 3);
        EXPECT_TRUE(graph && graph->round());
    } else {
        EXPECT_TRUE(cuda::launch(*spec, nullptr));
    }
    EXPECT_TRUE(cuda::synchronize(nullptr));
    EXPECT_TRUE(cuda::download(bytes.data(), tensors.o.data, bytes.size() - of_lse));
    EXPECT_TRUE(cuda::download(bytes.data() + bytes.size() - of_lse, tensors.lse.data, of_lse));
    return bytes;
}

// V transposed once or on its way: the same bits, so that either may take the other's place, in a graph too.
TEST_F(Gpu, SameBitsWhoeverTransposesV) {
    for (const char* text : {"bf16 e4m3 d256 h8/2 b2 s2111 causal lse", "f16 e4m3 d240 h8/8 b3 s1500 lse", "bf16 e4m3 d128 h8/2 b2 s5003 causal lse",
                             "f16 e4m3 d80 h8/4 b2 s4444 lse"}) {
        const auto b = parse_problem(text);
        ASSERT_TRUE(b);
        BenchTensors memory;
        const auto tensors = memory.make(*b);
        ASSERT_TRUE(tensors) << tensors.error().text();
        const auto& table = planner::kernel_table();
        int compared = 0;
        for (std::size_t i = 0; i < table.size(); ++i) {
            if (!table[i].v_turned || table[i].splits) continue;
            const auto turned = planner::plan_variant(b->problem, device, static_cast<int>(i));
            if (!turned) continue;
            ASSERT_GT(turned->scratch_bytes, 0);
            const auto plain = planner::replace_without_scratch(*turned, device);
            ASSERT_TRUE(plain) << plain.error().text();
            const std::vector<char> expected = outputs_of(*plain, *tensors, false, text);
            EXPECT_TRUE(outputs_of(*turned, *tensors, false, text) == expected) << turned->kernel << " on " << text;
            EXPECT_TRUE(outputs_of(*turned, *tensors, true, text) == expected) << turned->kernel << " on " << text << " in a graph";
            ++compared;
        }
        EXPECT_EQ(compared, 1) << text;
    }
}

// Split jobs: the same bits every time, whoever is last, on the stream's words and on a graph's.
TEST_F(Gpu, SplitJobsGiveTheSameBits) {
    for (const char* text : {"bf16 d128 h8/2 s128 kv8192 lse", "f16 d256 h8/8 b2 s300 kv9000 lse", "bf16 e4m3 d128 h8/2 b2 s1111 kv7000 lse",
                             "f16 e4m3 d240 h4/4 b3 s500 kv8000 lse", "bf16 d128 h8/2 s1000 kv8192 causal lse", "f16 d256 h8/8 b2 s1300 causal lse",
                             "bf16 d64 h4/4 b2 s3000 causal lse", "bf16 e4m3 d128 h8/2 b2 s1111 kv7000 causal lse",
                             "f16 e4m3 d240 h4/4 b3 s2500 causal lse", "f16 e4m3 d64 h8/2 b2 s1111 kv7000 causal lse",
                             "bf16 e4m3 d64 h8/8 s300 kv9000 lse"}) {
        const auto b = parse_problem(text);
        ASSERT_TRUE(b);
        BenchTensors memory;
        const auto tensors = memory.make(*b);
        ASSERT_TRUE(tensors) << tensors.error().text();
        int compared = 0;
        for (int i = 0; i < planner::variants(); ++i) {
            if (!planner::kernel_at(i).splits) continue;
            const auto plan = planner::plan_variant(b->problem, device, i);
            if (!plan) continue;
            const std::int64_t jobs = std::min((plan->jobs + 1) / 2, planner::splittable_jobs(planner::kernel_at(i), plan->problem, 5));
            const Plan split = planner::with_split(*plan, {jobs, 5}, device.num_sms);
            const std::vector<char> expected = outputs_of(split, *tensors, false, text);
            for (int again = 0; again < 100; ++again)
                ASSERT_TRUE(outputs_of(split, *tensors, again % 10 == 9, text) == expected) << split.kernel << " on " << text << ", time " << again;
            ++compared;
        }
        EXPECT_GE(compared, 1) << text;
    }
}

// For compute-sanitizer, under which everything is slow.
TEST_F(Gpu, SmallGrid) {
    std::vector<Task> tasks;
    for (std::int64_t head_dim : {64, 72, 128, 256})
        for (bool packed : {false, true})
            for (bool causal : {false, true}) {
                check::Case c;
                c.head_dim = head_dim;
                c.causal = causal;
                c.packed = packed;
                c.heads = 4;
                c.kv_heads = 2;
                c.q_lens = packed ? std::vector<std::int64_t>{130, 0, 65, 1} : std::vector<std::int64_t>{193, 193};
                c.kv_lens = packed ? std::vector<std::int64_t>{257, 3, 0, 64} : std::vector<std::int64_t>{321, 321};
                c.seed = 7;
                tasks.push_back({c, -1});
            }
    for (const Record& r : run_all(tasks))
        EXPECT_EQ(r.outcome.status, check::Outcome::Status::passed) << check::to_string(r.c) << ": " << r.outcome.text;
}

// One graph, captured once, serves other lengths: what is in cu_seqlens when it runs counts.
class GpuGraphs : public Gpu, public testing::WithParamInterface<const char*> {};

TEST_P(GpuGraphs, OneServesChangingLengths) {
    const auto b = parse_problem(GetParam());
    ASSERT_TRUE(b);
    BenchTensors memory;
    const auto tensors = memory.make(*b);
    ASSERT_TRUE(tensors) << tensors.error().text();
    AttentionOptions options;
    options.causal = true;
    ASSERT_TRUE(attention(*tensors, options));
    watch("changing lengths", std::chrono::seconds(60));
    auto graph = cuda::ReplayTimer::make([&](Stream stream) { return attention(*tensors, options, stream); }, 1);
    ASSERT_TRUE(graph) << graph.error().text();
    std::vector<char> replayed(static_cast<std::size_t>(2 * tensors->o.elements())), direct(replayed.size());
    for (const std::vector<std::int32_t>& sums :
         {std::vector<std::int32_t>{0, 1, 1, 600, 636}, {0, 0, 0, 0, 636}, {0, 159, 318, 477, 636}, {0, 300, 500, 600, 636}}) {
        ASSERT_TRUE(cuda::upload(tensors->cu_seqlens_q.data, sums.data(), sums.size() * 4));
        ASSERT_TRUE(cuda::upload(tensors->cu_seqlens_k.data, sums.data(), sums.size() * 4));
        const std::vector<char> poison(replayed.size(), '\x7f');
        ASSERT_TRUE(cuda::upload(tensors->o.data, poison.data(), poison.size()));
        ASSERT_TRUE(graph->round());
        ASSERT_TRUE(cuda::download(replayed.data(), tensors->o.data, replayed.size()));
        ASSERT_TRUE(cuda::upload(tensors->o.data, poison.data(), poison.size()));
        ASSERT_TRUE(attention(*tensors, options));
        ASSERT_TRUE(cuda::download(direct.data(), tensors->o.data, direct.size()));
        EXPECT_EQ(std::memcmp(replayed.data(), direct.data(), direct.size()), 0) << "lengths " << fmt::format("{}", sums[1]);
    }
}

// With FP8 keys and values of that head dimension, which are copied first, the graph has memory of its own.
INSTANTIATE_TEST_SUITE_P(Problems, GpuGraphs,
                         testing::Values("bf16 d128 h8/2 len=300,200,100,36 causal lse", "bf16 kv_e4m3 d256 h8/2 len=300,200,100,36 causal lse"));

TEST_F(Gpu, ThreadsOnTheirOwnStreams) {
    watch("threads", std::chrono::seconds(120));
    const auto cu = cuda::driver();
    ASSERT_TRUE(cu);
    std::atomic<int> wrong = 0;
    const auto worker = [&](int index) {
        // The last ones' keys and values are copied first, or the values transposed, to memory from one pool.
        const auto b = parse_problem(index < 4 ? fmt::format("bf16 d{} h16/4 s{} causal", index % 2 == 0 ? 128 : 64, 400 + 100 * index)
                                               : fmt::format("bf16 {} d256 h16/4 s{} causal", index == 4 ? "kv_e4m3" : "e4m3", 500 * index));
        BenchTensors memory;
        const auto tensors = memory.make(*b);
        cuda::CUstream stream = nullptr;
        if (!tensors || (*cu)->cuStreamCreate(&stream, cuda::CU_STREAM_NON_BLOCKING) != 0) {
            ++wrong;
            return;
        }
        AttentionOptions options;
        options.causal = true;
        std::vector<char> first(static_cast<std::size_t>(2 * tensors->o.elements())), now(first.size());
        for (int i = 0; i < 200; ++i) {
            const bool done = attention(*tensors, options, stream) && cuda::synchronize(stream) &&
                              cuda::download(i == 0 ? first.data() : now.data(), tensors->o.data, first.size());
            if (!done || (i > 0 && std::memcmp(first.data(), now.data(), first.size()) != 0)) ++wrong;
        }
        (*cu)->cuStreamDestroy(stream);
    };
    std::vector<std::thread> threads;
    for (int i = 0; i < 7; ++i) threads.emplace_back(worker, i);
    for (std::thread& t : threads) t.join();
    EXPECT_EQ(wrong, 0);
}

TEST_F(Gpu, LaunchCostsTheHostLittle) {
    const auto b = parse_problem("bf16 d128 h8 s512 causal");
    BenchTensors memory;
    const auto tensors = memory.make(*b);
    ASSERT_TRUE(tensors) << tensors.error().text();
    const auto plan = planner::choose(b->problem, device);
    ASSERT_TRUE(plan) << plan.error().text();
    const auto spec = planner::make_launch(*plan, *tensors);
    ASSERT_TRUE(spec) << spec.error().text();
    const auto timing = cuda::time_launch(*spec, 5);
    ASSERT_TRUE(timing) << timing.error().text();
    fmt::print("launch() takes {:.2f} us of the host's time; the kernel {:.2f} us\n", timing->host_us, timing->us);
    RecordProperty("host_us", fmt::format("{:.2f}", timing->host_us));
    EXPECT_LT(timing->host_us, 20);  // about 3 us on a quiet machine
}

TEST_F(Gpu, DriverRefusalsNameTheTensor) {
    const auto b = parse_problem("bf16 d128 h8 s512");
    BenchTensors memory;
    const auto tensors = memory.make(*b);
    ASSERT_TRUE(tensors);
    const auto plan = planner::choose(b->problem, device);
    ASSERT_TRUE(plan);
    auto spec = planner::make_launch(*plan, *tensors);
    ASSERT_TRUE(spec);
    spec->k.stride[1] += 8;
    const auto refused = cuda::launch(*spec, nullptr);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().argument, "k");
    EXPECT_EQ(refused.error().code, Code::device);
}

}  // namespace
}  // namespace hopfill::gpu
