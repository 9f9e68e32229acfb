// Times of launches by graph replay (DESIGN.md, 'Evidence').
#pragma once

#include <functional>
#include <vector>

#include "cuda/driver.h"
#include "plan/launch.h"

namespace hopfill::cuda {

struct Timing {
    double us = 0;         // median over rounds of one launch's time in a graph of up to 40 launches, but at most 10 ms
    double us_spread = 0;  // slowest round less the fastest
    double host_us = 0;    // median time of launch() on the calling thread
};

Result<Timing> time_launch(const planner::LaunchSpec& spec, int rounds);

// Something launched on a stream, captured `launches` times into a graph; for benches that take turns between several.
class ReplayTimer {
public:
    using LaunchFunction = std::function<Result<void>(Stream)>;

    // Launches once to load and to estimate, then captures.
    static Result<ReplayTimer> make(const LaunchFunction& launch);
    // Captures exactly `launches`.
    static Result<ReplayTimer> make(const LaunchFunction& launch, int launches);
    ReplayTimer(ReplayTimer&& other) noexcept;
    ReplayTimer& operator=(ReplayTimer&& other) noexcept;
    ~ReplayTimer();

    // Replays the graph once and returns the time of one launch, in microseconds.
    Result<double> round();
    [[nodiscard]] int launches() const { return launches_; }

private:
    ReplayTimer() = default;
    const Driver* cu_ = nullptr;
    CUstream stream_ = nullptr;
    CUevent begin_ = nullptr, end_ = nullptr;
    CUgraphExec graph_ = nullptr;
    int launches_ = 0;
};

double median(std::vector<double> values);

}  // namespace hopfill::cuda
