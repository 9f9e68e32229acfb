// Explores random schedules of all kernels on random problems; prints how many, the faults, and the time.
//   emulator_soak [schedules] [first] [threads]
// Schedule i is row i mod rows of the table under seed i; each problem is run under eight schedules.
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "workload.h"

int main(int argc, char** argv) {
    using namespace hopfill;
    const long schedules = argc > 1 ? std::atol(argv[1]) : 10000, first = argc > 2 ? std::atol(argv[2]) : 0;
    const unsigned workers = argc > 3 ? static_cast<unsigned>(std::atoi(argv[3])) : std::max(1u, std::thread::hardware_concurrency());
    const long rows = static_cast<long>(planner::kernel_table().size());
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
            const int row = static_cast<int>(problem % rows);
            testing::Workload workload(testing::random_case(row, static_cast<std::uint64_t>(first + problem)),
                                       static_cast<std::uint64_t>(first + problem));
            for (long i = problem * kPerProblem; i < (problem + 1) * kPerProblem && i < schedules; ++i) {
                emulator::Options options;
                options.seed = static_cast<std::uint64_t>(first + i);
                options.exact_sums = i % kPerProblem == 0;
                const testing::Outcome outcome = workload.run(options, emulator::run);
                const std::lock_guard lock(mutex);
                steps += outcome.steps;
                ++by_family[workload.kernel_name().substr(0, workload.kernel_name().find("_hd"))];
                if (outcome.kind != "clean") {
                    ++faults;
                    std::printf("problem %ld, schedule %ld: %s: %s\n%s\n", first + problem, first + i, workload.kernel_name().c_str(),
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
