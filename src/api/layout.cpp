#include "api/layout.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <span>

namespace hopfill {

std::string shape_text(const TensorView& view) {
    return fmt::format("[{}]", fmt::join(std::span(view.shape).first(static_cast<std::size_t>(view.rank)), ", "));
}

TensorView canonical(const TensorView& view) {
    TensorView out = view;
    const bool empty = view.elements() == 0;
    std::int64_t compact = 1;
    for (std::size_t i = static_cast<std::size_t>(view.rank); i-- > 0;) {
        if (empty || out.shape[i] <= 1) out.strides[i] = compact;
        compact = std::max<std::int64_t>(out.shape[i], 1) * out.strides[i];
    }
    return out;
}

bool is_contiguous(const TensorView& view) {
    if (view.elements() == 0) return true;
    const TensorView c = canonical(view);
    std::int64_t stride = 1;
    for (std::size_t i = static_cast<std::size_t>(c.rank); i-- > 0;) {
        if (c.shape[i] > 1 && c.strides[i] != stride) return false;
        stride *= c.shape[i];
    }
    return true;
}

bool overlaps_itself(const TensorView& view) {
    if (view.elements() == 0) return false;
    std::array<std::size_t, 4> order{};  // dimensions of more than one element, from the innermost out
    std::size_t n = 0;
    for (std::size_t i = 0; i < static_cast<std::size_t>(view.rank); ++i) {
        if (view.shape[i] <= 1) continue;
        std::size_t at = n++;
        for (; at > 0 && view.strides[order[at - 1]] > view.strides[i]; --at) order[at] = order[at - 1];
        order[at] = i;
    }
    std::int64_t extent = 0;
    for (std::size_t i = 0; i < n; ++i) {
        if (view.strides[order[i]] <= extent) return true;
        extent += (view.shape[order[i]] - 1) * view.strides[order[i]];
    }
    return false;
}

bool share_memory(const TensorView& a, const TensorView& b) {
    if (!a.present() || !b.present() || a.elements() == 0 || b.elements() == 0) return false;
    if (a.data == b.data) return true;
    if (!is_contiguous(a) || !is_contiguous(b)) return false;
    const auto begin_a = reinterpret_cast<std::uintptr_t>(a.data), begin_b = reinterpret_cast<std::uintptr_t>(b.data);
    const auto bytes_a = static_cast<std::uintptr_t>(a.elements() * size_of(a.dtype)),
               bytes_b = static_cast<std::uintptr_t>(b.elements() * size_of(b.dtype));
    return begin_a < begin_b ? begin_b - begin_a < bytes_a : begin_a - begin_b < bytes_b;
}

}  // namespace hopfill
