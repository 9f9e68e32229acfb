// The limits of cuTensorMapEncodeTiled (CUDA driver API, "Tensor Map Object Management").
#include "emulator/tensor_map.h"

#include <fmt/format.h>

#include <cstring>

namespace hopfill::emulator {

Result<TensorMap> encode(const TensorMapSpec& spec) {
    const auto bad = [](std::string field, std::string message) { return Error{Code::invalid_argument, std::move(field), std::move(message)}; };
    const u32 bytes = static_cast<u32>(elem_bytes(spec.elem));
    if (spec.base == nullptr || reinterpret_cast<u64>(spec.base) % 16 != 0)
        return bad("base", fmt::format("{} is not a 16-byte aligned address", spec.base));
    EncodedMap map{};
    map.magic = EncodedMap::kMagic;
    map.elem = spec.elem;
    map.swizzle = spec.swizzle;
    map.base = reinterpret_cast<u64>(spec.base);
    for (std::size_t i = 0; i < 5; ++i) {
        if (spec.size[i] < 1 || spec.size[i] > u64{1} << 32)
            return bad(fmt::format("size[{}]", i), fmt::format("{}; 1 to 2^32 are possible", spec.size[i]));
        if (spec.box[i] < 1 || spec.box[i] > 256) return bad(fmt::format("box[{}]", i), fmt::format("{}; 1 to 256 are possible", spec.box[i]));
        map.last[i] = static_cast<u32>(spec.size[i] - 1);
        map.box[i] = static_cast<u16>(spec.box[i]);
    }
    for (std::size_t i = 0; i < 4; ++i) {
        if (spec.stride[i] % 16 != 0 || spec.stride[i] >= u64{1} << 40)
            return bad(fmt::format("stride[{}]", i), fmt::format("{} bytes; multiples of 16 below 2^40 are possible", spec.stride[i]));
        map.stride[i] = spec.stride[i];
    }
    const u32 row = spec.box[0] * bytes;
    if (row % 16 != 0) return bad("box[0]", fmt::format("{} bytes; multiples of 16 are possible", row));
    if (const u32 span = swizzle_span(spec.swizzle); span != 0 && row > span)
        return bad("box[0]", fmt::format("{} bytes; a swizzle of {} bytes allows no more than that", row, span));
    TensorMap out{};
    std::memcpy(out.opaque, &map, sizeof map);
    return out;
}

}  // namespace hopfill::emulator
