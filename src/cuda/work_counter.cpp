#include "cuda/work_counter.h"

#include <map>
#include <mutex>
#include <utility>

#include "cuda/loader.h"

namespace hopfill::cuda {
namespace {

constexpr std::size_t kStride = 32;  // a sector of L2 for each: streams do not contend
constexpr std::size_t kChunk = 8192;

struct Pool {
    CUdeviceptr next = 0;
    std::size_t left = 0;
};

struct Counters {
    std::mutex mutex;
    std::map<unsigned long long, Pool> pools;                                              // by context
    std::map<std::pair<unsigned long long, unsigned long long>, CUdeviceptr> of_stream;   // by context and stream
};
Counters& counters() {
    static auto* c = new Counters;
    return *c;
}

Result<void> refill(const Driver& cu, Pool& pool) {
    const RelaxedCapture relaxed(cu);
    // On a stream of its own: the default stream would wait for, or break, a capture.
    CUstream stream = nullptr;
    CUdeviceptr chunk = 0;
    if (auto r = cu.check(cu.cuMemAlloc(&chunk, kChunk * kStride), "cuMemAlloc (work counters)"); !r) return r;
    if (auto r = cu.check(cu.cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING), "cuStreamCreate"); !r) return r;
    auto zeroed = cu.check(cu.cuMemsetD8Async(chunk, 0, kChunk * kStride, stream), "cuMemsetD8Async");
    if (zeroed) zeroed = cu.check(cu.cuStreamSynchronize(stream), "cuStreamSynchronize");
    cu.cuStreamDestroy(stream);
    if (!zeroed) return zeroed;
    pool = {chunk, kChunk};
    return {};
}

Result<CUdeviceptr> take(const Driver& cu, Pool& pool) {
    if (pool.left == 0)
        if (auto r = refill(cu, pool); !r) return r.error();
    const CUdeviceptr counter = pool.next;
    pool.next += kStride;
    --pool.left;
    return counter;
}

}  // namespace

Result<void> reserve_counters(const Driver& cu, unsigned long long context) {
    std::lock_guard lock(counters().mutex);
    Pool& pool = counters().pools[context];
    return pool.left > 0 ? Result<void>{} : refill(cu, pool);
}

Result<CUdeviceptr> work_counter(const Driver& cu, unsigned long long context, CUstream stream) {
    // Ids, not handles: the per-thread default stream has one handle for many streams. An error here comes back from the launch itself.
    unsigned long long id = 0;
    CUstreamCaptureStatus capture = CU_STREAM_CAPTURE_STATUS_NONE;
    cu.cuStreamIsCapturing(stream, &capture);
    if (capture == CU_STREAM_CAPTURE_STATUS_NONE)
        if (auto r = cu.check(cu.cuStreamGetId(stream, &id), "cuStreamGetId"); !r) return r.error();
    std::lock_guard lock(counters().mutex);
    Pool& pool = counters().pools[context];
    if (capture != CU_STREAM_CAPTURE_STATUS_NONE) return take(cu, pool);
    CUdeviceptr& counter = counters().of_stream[{context, id}];
    if (counter == 0) {
        auto taken = take(cu, pool);
        if (!taken) return taken;
        counter = *taken;
    }
    return counter;
}

}  // namespace hopfill::cuda
