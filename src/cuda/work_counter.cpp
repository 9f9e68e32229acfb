#include "cuda/work_counter.h"

#include <fmt/format.h>

#include <bit>
#include <map>
#include <mutex>
#include <optional>
#include <utility>

#include "cuda/backend.h"
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
    std::map<std::pair<unsigned long long, unsigned long long>, std::pair<CUdeviceptr, std::size_t>> words_of_stream;  // and how many sectors
};
Counters& counters() {
    static auto* c = new Counters;
    return *c;
}

// Zeroed sectors.
Result<CUdeviceptr> allocate(const Driver& cu, std::size_t sectors) {
    const RelaxedCapture relaxed(cu);
    // On a stream of its own: the default stream would wait for, or break, a capture.
    CUstream stream = nullptr;
    CUdeviceptr chunk = 0;
    if (auto r = cu.check(cu.cuMemAlloc(&chunk, sectors * kStride), "cuMemAlloc (work counters)"); !r) return r.error();
    if (auto r = cu.check(cu.cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING), "cuStreamCreate"); !r) return r.error();
    auto zeroed = cu.check(cu.cuMemsetD8Async(chunk, 0, sectors * kStride, stream), "cuMemsetD8Async");
    if (zeroed) zeroed = cu.check(cu.cuStreamSynchronize(stream), "cuStreamSynchronize");
    cu.cuStreamDestroy(stream);
    if (!zeroed) return zeroed.error();
    return chunk;
}

Result<void> refill(const Driver& cu, Pool& pool) {
    const auto chunk = allocate(cu, kChunk);
    if (!chunk) return chunk.error();
    pool = {*chunk, kChunk};
    return {};
}

// What is more than 1 KB is allocated by itself, so that little of a chunk is lost where the next one begins.
Result<CUdeviceptr> take(const Driver& cu, Pool& pool, std::size_t sectors = 1) {
    if (sectors > kChunk / 256) return allocate(cu, sectors);
    if (pool.left < sectors)
        if (auto r = refill(cu, pool); !r) return r.error();
    const CUdeviceptr counter = pool.next;
    pool.next += sectors * kStride;
    pool.left -= sectors;
    return counter;
}

// Ids, not handles: the per-thread default stream has one handle for many streams. None while it is captured: a graph has words of its own. An error
// here comes back from the launch itself.
Result<std::optional<unsigned long long>> id_of(const Driver& cu, CUstream stream) {
    unsigned long long id = 0;
    CUstreamCaptureStatus capture = CU_STREAM_CAPTURE_STATUS_NONE;
    cu.cuStreamIsCapturing(stream, &capture);
    if (capture != CU_STREAM_CAPTURE_STATUS_NONE) return std::optional<unsigned long long>{};
    if (auto r = cu.check(cu.cuStreamGetId(stream, &id), "cuStreamGetId"); !r) return r.error();
    return std::optional{id};
}

}  // namespace

Result<void> reserve_counters(const Driver& cu, unsigned long long context) {
    std::lock_guard lock(counters().mutex);
    Pool& pool = counters().pools[context];
    return pool.left > 0 ? Result<void>{} : refill(cu, pool);
}

Result<CUdeviceptr> work_counter(const Driver& cu, unsigned long long context, CUstream stream) {
    const auto id = id_of(cu, stream);
    if (!id) return id.error();
    std::lock_guard lock(counters().mutex);
    Pool& pool = counters().pools[context];
    if (!*id) return take(cu, pool);
    CUdeviceptr& counter = counters().of_stream[{context, **id}];
    if (counter == 0) {
        auto taken = take(cu, pool);
        if (!taken) return taken;
        counter = *taken;
    }
    return counter;
}

Result<CUdeviceptr> counting_words(const Driver& cu, unsigned long long context, CUstream stream, std::size_t words) {
    const std::size_t sectors = (words * 4 + kStride - 1) / kStride;
    const auto id = id_of(cu, stream);
    if (!id) return id.error();
    const auto or_do_without = [](Result<CUdeviceptr> taken) {
        return taken ? taken : Error{taken.error().code, kScratch, fmt::format("words to count with cannot be had: {}", taken.error().text())};
    };
    std::lock_guard lock(counters().mutex);
    Pool& pool = counters().pools[context];
    if (!*id) return or_do_without(take(cu, pool, sectors));
    auto& [address, kept] = counters().words_of_stream[{context, **id}];
    if (kept < sectors) {
        // Room to grow: what a stream had before stays with the launches that still use it.
        const auto taken = or_do_without(take(cu, pool, std::bit_ceil(sectors)));
        if (!taken) return taken;
        address = *taken;
        kept = std::bit_ceil(sectors);
    }
    return address;
}

}  // namespace hopfill::cuda
