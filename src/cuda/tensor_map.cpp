#include "cuda/tensor_map.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace hopfill::cuda {
namespace {

CUtensorMapDataType data_type(Elem e) {
    switch (e) {
        case Elem::bf16: return CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
        case Elem::f16: return CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
        case Elem::e4m3: return CU_TENSOR_MAP_DATA_TYPE_UINT8;
        case Elem::f32: return CU_TENSOR_MAP_DATA_TYPE_FLOAT32;
    }
    return CU_TENSOR_MAP_DATA_TYPE_UINT8;
}

CUtensorMapSwizzle swizzle(Swizzle s) {
    switch (s) {
        case Swizzle::none: return CU_TENSOR_MAP_SWIZZLE_NONE;
        case Swizzle::b32: return CU_TENSOR_MAP_SWIZZLE_32B;
        case Swizzle::b64: return CU_TENSOR_MAP_SWIZZLE_64B;
        case Swizzle::b128: return CU_TENSOR_MAP_SWIZZLE_128B;
    }
    return CU_TENSOR_MAP_SWIZZLE_NONE;
}

std::uint64_t hash(const TensorMapSpec& s) {
    std::uint64_t h =
        reinterpret_cast<std::uintptr_t>(s.base) ^ (static_cast<std::uint64_t>(s.elem) << 60) ^ (static_cast<std::uint64_t>(s.swizzle) << 56);
    const auto mix = [&](std::uint64_t v) { h = (h ^ v) * 0x9e3779b97f4a7c15ull; };
    for (std::uint64_t v : s.size) mix(v);
    for (std::uint64_t v : s.stride) mix(v);
    for (std::uint32_t v : s.box) mix(v);
    return h ^ (h >> 32);
}

struct Slot {
    TensorMapSpec spec;  // base is null in an unused slot: no valid map has that
    TensorMap map;
};
constexpr std::size_t kSlots = 128;
thread_local Slot slots[kSlots];

}  // namespace

Result<void> encode(const Driver& cu, const TensorMapSpec& spec, const char* tensor, TensorMap& to) {
    Slot& slot = slots[hash(spec) % kSlots];
    if (slot.spec.base == nullptr || slot.spec != spec) {
        constexpr std::uint32_t unit[5] = {1, 1, 1, 1, 1};
        const CUresult status = cu.cuTensorMapEncodeTiled(
            &slot.map, data_type(spec.elem), 5, const_cast<void*>(spec.base), spec.size.data(), spec.stride.data(), spec.box.data(), unit,
            CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle(spec.swizzle), CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
        if (status != 0) {
            slot.spec.base = nullptr;
            return Error{Code::device, tensor,
                         fmt::format("cuTensorMapEncodeTiled refuses base {}, sizes [{}], byte strides [{}], box [{}]: {}", spec.base,
                                     fmt::join(spec.size, ", "), fmt::join(spec.stride, ", "), fmt::join(spec.box, ", "), cu.describe(status))};
        }
        slot.spec = spec;
    }
    to = slot.map;
    return {};
}

}  // namespace hopfill::cuda
