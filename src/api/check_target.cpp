#include <cstdlib>
#include <cstring>

#include "hopfill/check.h"
#include "hopfill/emulate.h"

namespace hopfill::check {

Result<void*> Target::allocate(std::size_t bytes) {
    constexpr std::size_t alignment = 256;
    void* p = std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
    if (p == nullptr) return Error{Code::internal, "", "out of memory"};
    return p;
}

void Target::release(void* p) { std::free(p); }

Result<void> Target::upload(void* to, const void* from, std::size_t bytes) {
    std::memcpy(to, from, bytes);
    return {};
}

Result<void> Target::download(void* to, const void* from, std::size_t bytes) {
    std::memcpy(to, from, bytes);
    return {};
}

Result<void> Target::run(const AttentionProblem&, const AttentionTensors& tensors, const AttentionOptions& options, std::uint64_t schedule) {
    if (backend_ != Backend::emulated) return attention(tensors, options);
    auto problem = describe(tensors, options);
    if (!problem) return problem.error();
    auto made = plan(*problem, DeviceInfo{}, Backend::emulated);
    if (!made) return made.error();
    if (auto steps = emulate(*made, tensors, schedule); !steps) return steps.error();
    return {};
}

}  // namespace hopfill::check
