// Explores random schedules of all kernels on random problems; prints how many, the faults, and the time.
//   emulator_soak [schedules] [first] [threads]
// Problem i is of row i mod rows of the planner's tables, those compiled at first use included, and then of the quantiser; each is run under eight
// schedules.
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "quantize_workload.h"
#include "workload.h"

namespace {

using namespace hopfill;

struct Subject {
    std::string name, family;
    std::function<testing::Outcome(const emulator::Options&)> run;
};

Subject make_subject(long row, long planned, std::uint64_t seed) {
    if (row < planned) {
        const auto work = std::make_shared<testing::Workload>(testing::random_case(static_cast<int>(row), seed), seed);
        const std::string name = work->kernel_name();
        return {name, name.substr(0, name.find("_hd")), [work](const emulator::Options& o) { return work->run(o, emulator::run); }};
    }
    const testing::QuantizeCase c = testing::random_quantize_case(seed);
    const auto work = std::make_shared<testing::QuantizeWorkload>(c, seed);
    return {c.name, "quantize", [work](const emulator::Options& o) { return work->run(o, emulator::run_quantizer); }};
}

}  // namespace

int main(int argc, char** argv) {
    const long schedules = argc > 1 ? std::atol(argv[1]) : 10000, first = argc > 2 ? std::atol(argv[2]) : 0;
    const unsigned workers = argc > 3 ? static_cast<unsigned>(std::atoi(argv[3])) : std::max(1u, std::thread::hardware_concurrency());
    const long planned = static_cast<long>(planner::kernel_table().size() + planner::first_use_table().size());
    const long rows = planned + static_cast<long>(planner::quantize_kernels().size());
    constexpr long kPerProblem = 8;
    const auto start = std::chrono::steady_clock::now();
    const auto seconds = [&] { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(); };
    std::atomic<long> next{0};
    std::mutex mutex;
    long done = 0, faults = 0;
    std::uint64_t steps = 0;
    std::map<std::string, long> by_family;
    const auto work = [&] {
        for (;;) {
            const long problem = next.fetch_add(1);
            if (problem * kPerProblem >= schedules) return;
            const Subject subject = make_subject(problem % rows, planned, static_cast<std::uint64_t>(first + problem));
            for (long i = problem * kPerProblem; i < (problem + 1) * kPerProblem && i < schedules; ++i) {
                emulator::Options options;
                options.seed = static_cast<std::uint64_t>(first + i);
                options.exact_sums = i % kPerProblem == 0;
                const testing::Outcome outcome = subject.run(options);
                const std::lock_guard lock(mutex);
                steps += outcome.steps;
                ++by_family[subject.family];
                if (outcome.kind != "clean") {
                    ++faults;
                    std::printf("problem %ld, schedule %ld: %s: %s\n%s\n", first + problem, first + i, subject.name.c_str(),
                                outcome.kind.c_str(), outcome.text.c_str());
                }
                if (++done % 500 == 0) std::printf("%ld of %ld schedules, %ld faults, %.0f s\n", done, schedules, faults, seconds());
                std::fflush(stdout);
            }
        }
    };
    std::vector<std::thread> threads;
    for (unsigned i = 0; i < workers; ++i) threads.emplace_back(work);
    for (std::thread& t : threads) t.join();
    for (const auto& [family, n] : by_family) std::printf("%s: %ld schedules\n", family.c_str(), n);
    std::printf("soak: %ld schedules of %ld kernels, %ld faults, %llu steps, %.0f s\n", done, rows, faults, static_cast<unsigned long long>(steps),
                seconds());
    return faults == 0 ? 0 : 1;
}
