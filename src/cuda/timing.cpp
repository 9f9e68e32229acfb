#include "cuda/timing.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "cuda/backend.h"

namespace hopfill::cuda {
namespace {

constexpr int kMostLaunches = 40;
constexpr double kLongestGraphUs = 10'000;

Result<double> elapsed_us(const Driver& cu, CUevent begin, CUevent end) {
    float ms = 0;
    if (auto r = cu.check(cu.cuEventSynchronize(end), "cuEventSynchronize"); !r) return r.error();
    if (auto r = cu.check(cu.cuEventElapsedTime(&ms, begin, end), "cuEventElapsedTime"); !r) return r.error();
    return 1000.0 * ms;
}

}  // namespace

double median(std::vector<double> values) {
    std::ranges::sort(values);
    const std::size_t n = values.size();
    return n == 0 ? 0 : (values[(n - 1) / 2] + values[n / 2]) / 2;
}

ReplayTimer::ReplayTimer(ReplayTimer&& other) noexcept { *this = std::move(other); }

// Swaps: what this one held goes when `other` does.
ReplayTimer& ReplayTimer::operator=(ReplayTimer&& other) noexcept {
    std::swap(cu_, other.cu_);
    std::swap(stream_, other.stream_);
    std::swap(begin_, other.begin_);
    std::swap(end_, other.end_);
    std::swap(graph_, other.graph_);
    std::swap(launches_, other.launches_);
    return *this;
}

ReplayTimer::~ReplayTimer() {
    if (graph_ != nullptr) cu_->cuGraphExecDestroy(graph_);
    if (begin_ != nullptr) cu_->cuEventDestroy(begin_);
    if (end_ != nullptr) cu_->cuEventDestroy(end_);
    if (stream_ != nullptr) cu_->cuStreamDestroy(stream_);
}

Result<ReplayTimer> ReplayTimer::make(const LaunchFunction& launch) {
    auto once = make(launch, 1);
    if (!once) return once;
    double us = 0;
    for (int i = 0; i < 3; ++i) {
        auto round = once->round();
        if (!round) return round.error();
        us = *round;
    }
    return make(launch, std::clamp(static_cast<int>(kLongestGraphUs / std::max(us, 1.0)), 1, kMostLaunches));
}

Result<ReplayTimer> ReplayTimer::make(const LaunchFunction& launch, int launches) {
    const auto opened = driver();
    if (!opened) return opened.error();
    const Driver& cu = **opened;
    if (auto context = current_context(cu); !context) return context.error();
    ReplayTimer t;
    t.cu_ = &cu;
    t.launches_ = launches;
    if (auto r = cu.check(cu.cuStreamCreate(&t.stream_, CU_STREAM_NON_BLOCKING), "cuStreamCreate"); !r) return r.error();
    if (auto r = cu.check(cu.cuEventCreate(&t.begin_, 0), "cuEventCreate"); !r) return r.error();
    if (auto r = cu.check(cu.cuEventCreate(&t.end_, 0), "cuEventCreate"); !r) return r.error();
    if (auto r = launch(t.stream_); !r) return r.error();
    if (auto r = cu.check(cu.cuStreamSynchronize(t.stream_), "first launch"); !r) return r.error();
    if (auto r = cu.check(cu.cuStreamBeginCapture(t.stream_, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL), "cuStreamBeginCapture"); !r) return r.error();
    Result<void> captured;
    for (int i = 0; i < launches && captured; ++i) captured = launch(t.stream_);
    CUgraph graph = nullptr;
    auto ended = cu.check(cu.cuStreamEndCapture(t.stream_, &graph), "cuStreamEndCapture");
    if (!captured) return captured.error();
    if (!ended) return ended.error();
    auto made = cu.check(cu.cuGraphInstantiate(&t.graph_, graph, 0), "cuGraphInstantiate");
    cu.cuGraphDestroy(graph);
    if (!made) return made.error();
    if (auto warm = t.round(); !warm) return warm.error();
    return t;
}

Result<double> ReplayTimer::round() {
    if (auto r = cu_->check(cu_->cuEventRecord(begin_, stream_), "cuEventRecord"); !r) return r.error();
    if (auto r = cu_->check(cu_->cuGraphLaunch(graph_, stream_), "cuGraphLaunch"); !r) return r.error();
    if (auto r = cu_->check(cu_->cuEventRecord(end_, stream_), "cuEventRecord"); !r) return r.error();
    auto us = elapsed_us(*cu_, begin_, end_);
    if (!us) return us;
    return *us / launches_;
}

Result<Timing> time_launch(const planner::LaunchSpec& spec, int rounds) {
    auto timer = ReplayTimer::make([&](Stream stream) { return launch(spec, stream); });
    if (!timer) return timer.error();
    std::vector<double> kernel, host;
    for (int i = 0; i < rounds; ++i) {
        auto us = timer->round();
        if (!us) return us.error();
        kernel.push_back(*us);
    }
    for (int i = 0; i < 32; ++i) {
        const auto begin = std::chrono::steady_clock::now();
        if (auto r = launch(spec, nullptr); !r) return r.error();
        host.push_back(std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - begin).count());
    }
    const auto cu = driver();
    if (!cu) return cu.error();
    if (auto r = (*cu)->check((*cu)->cuStreamSynchronize(nullptr), "cuStreamSynchronize"); !r) return r.error();
    const auto [fastest, slowest] = std::ranges::minmax(kernel);
    return Timing{median(kernel), slowest - fastest, median(host)};
}

}  // namespace hopfill::cuda
