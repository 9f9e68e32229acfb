#include "cuda/scratch.h"

#include <fmt/format.h>

#include <map>
#include <mutex>

#include "cuda/backend.h"
#include "cuda/loader.h"

namespace hopfill::cuda {
namespace {

// What a pool keeps when a stream, an event or the context is waited for, rather than give it back to the system, which takes longer than what the
// memory is for: copies of K and V of 128k tokens of eight heads of 128 columns. More than that goes back then, for others to have; in between,
// launch after launch, it stays in any case.
constexpr std::uint64_t kKept = std::uint64_t{512} << 20;

struct Pools {
    std::mutex mutex;
    std::map<unsigned long long, CUmemoryPool> of_context;
};
Pools& pools() {
    static auto* p = new Pools;
    return *p;
}

// A pool of our own: what the device's current one is, and keeps, is the application's choice.
Result<CUmemoryPool> pool_of(const Driver& cu, unsigned long long context) {
    std::lock_guard lock(pools().mutex);
    CUmemoryPool& kept = pools().of_context[context];
    if (kept != nullptr) return kept;
    const RelaxedCapture relaxed(cu);
    CUdevice device = 0;
    if (auto r = cu.check(cu.cuCtxGetDevice(&device), "cuCtxGetDevice"); !r) return r.error();
    CUmemPoolProps props{};
    props.type = CU_MEM_ALLOCATION_TYPE_PINNED;
    props.location_type = CU_MEM_LOCATION_TYPE_DEVICE;
    props.location_id = device;
    CUmemoryPool pool = nullptr;
    if (auto r = cu.check(cu.cuMemPoolCreate(&pool, &props), "cuMemPoolCreate"); !r) return r.error();
    std::uint64_t threshold = kKept;
    if (auto r = cu.check(cu.cuMemPoolSetAttribute(pool, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, &threshold), "cuMemPoolSetAttribute"); !r) {
        cu.cuMemPoolDestroy(pool);
        return r.error();
    }
    return kept = pool;
}

}  // namespace

Result<void> reserve_scratch(const Driver& cu, unsigned long long context) {
    const auto pool = pool_of(cu, context);
    return pool ? Result<void>{} : Result<void>{pool.error()};
}

Result<CUdeviceptr> allocate_scratch(const Driver& cu, unsigned long long context, std::int64_t bytes, CUstream stream) {
    const auto refused = [&](const std::string& why) {
        return Error{Code::device, kScratch, fmt::format("{} bytes of scratch memory cannot be had: {}", bytes, why)};
    };
    const auto pool = pool_of(cu, context);
    if (!pool) return refused(pool.error().text());
    CUdeviceptr memory = 0;
    const CUresult status = cu.cuMemAllocFromPoolAsync(&memory, static_cast<std::size_t>(bytes), *pool, stream);
    if (status != 0) return refused(cu.describe(status));
    return memory;
}

Result<void> release_scratch(const Driver& cu, CUdeviceptr memory, CUstream stream) {
    return cu.check(cu.cuMemFreeAsync(memory, stream), "cuMemFreeAsync");
}

}  // namespace hopfill::cuda
