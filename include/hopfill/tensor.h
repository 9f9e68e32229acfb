// Non-owning views of tensors on the host or on a GPU.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace hopfill {

enum class DType : std::uint8_t { f32, f16, bf16, e4m3, i32 };

/// Bytes of one element.
constexpr std::int64_t size_of(DType t) {
    return t == DType::e4m3 ? 1 : t == DType::f16 || t == DType::bf16 ? 2 : 4;
}
/// "f32", "f16", "bf16", "e4m3", "i32".
constexpr std::string_view name_of(DType t) {
    constexpr std::array<std::string_view, 5> names{"f32", "f16", "bf16", "e4m3", "i32"};
    return names[static_cast<std::size_t>(t)];
}

struct Device {
    enum class Kind : std::uint8_t { cpu, cuda };
    Kind kind = Kind::cpu;
    int index = 0;  ///< CUDA ordinal

    bool operator==(const Device&) const = default;
};

/// A strided view; it owns nothing. Strides are in elements; dimensions past `rank` are unused.
struct TensorView {
    void* data = nullptr;
    DType dtype = DType::f32;
    int rank = 0;
    std::array<std::int64_t, 4> shape{};
    std::array<std::int64_t, 4> strides{};
    Device device{};

    [[nodiscard]] bool present() const { return rank != 0; }
    [[nodiscard]] std::int64_t elements() const {
        std::int64_t n = 1;
        for (int i = 0; i < rank; ++i) n *= shape[static_cast<std::size_t>(i)];
        return n;
    }
};

/// A contiguous (row-major) view.
inline TensorView contiguous(void* data, DType dtype, std::initializer_list<std::int64_t> shape, Device device = {}) {
    TensorView v{data, dtype, static_cast<int>(shape.size()), {}, {}, device};
    std::size_t i = 0;
    for (std::int64_t n : shape) v.shape[i++] = n;
    std::int64_t stride = 1;
    for (; i > 0; --i) {
        v.strides[i - 1] = stride;
        stride *= v.shape[i - 1];
    }
    return v;
}

}  // namespace hopfill
