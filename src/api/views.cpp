#include "api/views.h"

#include <limits>

#include "api/error.h"
#include "api/layout.h"

namespace hopfill {
namespace {

constexpr std::int64_t kMaxExtent = std::int64_t{1} << 60;  // elements from a tensor's first to its last

std::string place(const char* name, const char* field, std::size_t i) { return fmt::format("{}.{}[{}]", name, field, i); }

std::string text_of(const Device& device) { return device.kind == Device::Kind::cpu ? "the host" : fmt::format("CUDA device {}", device.index); }

}  // namespace

Result<void> check_view(const char* name, const TensorView& view, int rank, const Device& device) {
    if (!view.present()) return invalid(name, "is absent; a tensor of rank {} is needed", rank);
    if (view.rank != rank) return invalid(name, "has rank {} ({}); {} is needed", view.rank, shape_text(view), rank);
    __int128 extent = 1, elements = 1;
    for (std::size_t i = 0; i < static_cast<std::size_t>(rank); ++i) {
        if (view.shape[i] < 0 || view.shape[i] > std::numeric_limits<std::int32_t>::max()) {
            return invalid(place(name, "shape", i), "is {}; 0 to 2^31 - 1 are allowed", view.shape[i]);
        }
        if (view.shape[i] > 1 && view.strides[i] < 0)
            return invalid(place(name, "strides", i), "is {}; negative strides are not allowed", view.strides[i]);
        elements *= view.shape[i];
        if (view.shape[i] > 1) extent += static_cast<__int128>(view.shape[i] - 1) * view.strides[i];
        if (extent > kMaxExtent || elements > kMaxExtent) return invalid(name, "of shape {} spans more than 2^60 elements", shape_text(view));
    }
    if (!(view.device == device))
        return invalid(name, "is on {} and q on {}; all tensors must be on one device", text_of(view.device), text_of(device));
    if (elements == 0) return {};
    if (view.data == nullptr) return invalid(name, "has shape {} and no data (null pointer)", shape_text(view));
    if (reinterpret_cast<std::uintptr_t>(view.data) % static_cast<std::uintptr_t>(size_of(view.dtype)) != 0) {
        return invalid(name, "is at an address that is not a multiple of its {} element's {} bytes", name_of(view.dtype), size_of(view.dtype));
    }
    return {};
}

Result<void> check_last_stride(const char* name, const TensorView& view) {
    const auto last = static_cast<std::size_t>(view.rank - 1);
    if (view.shape[last] > 1 && view.strides[last] != 1)
        return invalid(place(name, "strides", last), "is {}; the last stride must be 1", view.strides[last]);
    return {};
}

Result<void> check_dimension(const char* name, const TensorView& view, std::size_t i, std::int64_t expected, const char* why) {
    if (view.shape[i] == expected) return {};
    return invalid(place(name, "shape", i), "is {} (shape {}); {} as {}", view.shape[i], shape_text(view), expected, why);
}

Result<void> check_contiguous(const char* name, const TensorView& view, DType dtype) {
    if (view.dtype != dtype) return invalid(name, "is {}; {} is needed", name_of(view.dtype), name_of(dtype));
    if (!is_contiguous(view)) return invalid(name, "is not contiguous; it must be");
    return {};
}

Result<ScaleLayout> check_scale(const char* name, const TensorView& view, const AttentionProblem& p, const Device& device, Scaled of,
                                const std::optional<std::int64_t>& scale_block) {
    if (!view.present()) return ScaleLayout{};
    const bool of_q = of == Scaled::q, of_v = of == Scaled::v;
    if (view.rank > 3) return invalid(name, "has rank {} ({}); 1 to 3 are allowed", view.rank, shape_text(view));
    HOPFILL_CHECK(check_view(name, view, view.rank, device));
    if (view.dtype != DType::f32) return invalid(name, "is {}; f32 is needed", name_of(view.dtype));
    const std::int64_t heads = of_q ? p.heads : p.kv_heads;
    const auto stride = [&view](std::size_t i) { return view.shape[i] > 1 ? view.strides[i] : 0; };
    if (view.rank == 1) {
        if (view.shape[0] == 1) return ScaleLayout{ScaleKind::tensor, 0, 0, 0, 0};
        if (view.shape[0] == heads) return ScaleLayout{ScaleKind::head, 0, stride(0), 0, 0};
        return invalid(name, "has shape {}; [1] or [{}], an element a head, is allowed for rank 1", shape_text(view), heads);
    }
    const bool by_sequence = view.shape[0] == p.batch && view.shape[1] == p.kv_heads;
    if (view.rank == 2) {
        const bool by_channel = of_v && view.shape[0] == p.kv_heads && view.shape[1] == p.head_dim;
        if (by_sequence && by_channel) {
            return invalid(name,
                           "has shape {}, which is both [batch, kv_heads] and [kv_heads, head_dim]; give one element a tensor or head, or "
                           "[batch, kv_heads, blocks]",
                           shape_text(view));
        }
        if (by_sequence) return ScaleLayout{ScaleKind::sequence, stride(0), stride(1), 0, 0};
        if (by_channel) return ScaleLayout{ScaleKind::channel, 0, stride(0), 0, stride(1)};
        return invalid(name, "has shape {}; [{}, {}], batch and kv_heads{}, is allowed for rank 2", shape_text(view), p.batch, p.kv_heads,
                       of_v ? fmt::format(", or [{}, {}], kv_heads and head_dim", p.kv_heads, p.head_dim) : "");
    }
    if (!scale_block)
        return invalid("scale_block", "is not given, and {} has shape {}; 64 or 128 tokens a block are allowed", name, shape_text(view));
    if (*scale_block != 64 && *scale_block != 128) return invalid("scale_block", "is {}; 64 and 128 are allowed", *scale_block);
    const std::int64_t blocks = ((of_q ? p.max_seqlen_q : p.max_seqlen_kv) + *scale_block - 1) / *scale_block;
    if (!by_sequence || view.shape[2] < blocks) {
        return invalid(name, "has shape {}; [{}, {}, {} or more], batch, kv_heads and blocks of {} tokens, is needed", shape_text(view), p.batch,
                       p.kv_heads, blocks, *scale_block);
    }
    return ScaleLayout{ScaleKind::block, stride(0), stride(1), stride(2), 0};
}

}  // namespace hopfill
