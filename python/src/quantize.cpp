#include "quantize.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string_view.h>

#include <algorithm>
#include <string>
#include <string_view>

#include "arrays.h"
#include "docs.h"
#include "errors.h"
#include "hopfill/hopfill.h"

namespace nb = nanobind;

namespace hopfill::python {
namespace {

// k or v, the arrays made for it, and its views in QuantizeTensors.
struct Part {
    const char *name, *scale_name;
    nb::handle array;
    std::string_view kind;
    TensorView *in, *out, *scale;
    nb::object stored = nb::none(), scales = nb::none();
};

nb::tuple shape_of_scale(const Part& part, std::int64_t batch, std::int64_t longest, std::optional<std::int64_t> block) {
    const TensorView& t = *part.in;
    const auto heads_at = static_cast<std::size_t>(t.rank - 2);
    const std::int64_t heads = t.shape[heads_at], dim = t.shape[heads_at + 1];
    if (part.kind == "tensor") return nb::make_tuple(1);
    if (part.kind == "head") return nb::make_tuple(heads);
    if (part.kind == "sequence") return nb::make_tuple(batch, heads);
    if (part.kind == "channel" && std::string_view(part.name) == "v") return nb::make_tuple(heads, dim);
    if (part.kind != "block") {
        fail(Code::invalid_argument, part.scale_name,
             "'" + std::string(part.kind) + "'; allowed: 'tensor', 'head', 'sequence', 'block', and for v 'channel'");
    }
    if (!block || (*block != 64 && *block != 128)) fail(Code::invalid_argument, "scale_block", "64 or 128 is needed with scales by block");
    return nb::make_tuple(batch, heads, (longest + *block - 1) / *block);
}

nb::tuple quantize(nb::handle k, nb::handle v, std::string_view k_scale, std::string_view v_scale, std::optional<std::int64_t> scale_block,
                   bool smooth_k, bool transpose_v, nb::handle cu_seqlens_k, std::optional<std::int64_t> max_seqlen_k, nb::handle stream) {
    const TypeEntry& entry = entry_of(k);
    QuantizeTensors t;
    QuantizeOptions options;
    options.max_seqlen_kv = max_seqlen_k;
    options.v_transposed = transpose_v;
    if (k_scale == "block" || v_scale == "block") {
        options.scale_block = scale_block;
    } else if (scale_block) {
        fail(Code::invalid_argument, "scale_block", "given without scales by block");
    }
    Part parts[] = {{"k", "k_scale", k, k_scale, &t.k, &t.k_out, &t.k_scale}, {"v", "v_scale", v, v_scale, &t.v, &t.v_out, &t.v_scale}};
    nb::object keep[8];
    std::size_t kept = 0;
    const auto take = [&](TensorView& view, nb::handle object, const char* name) {
        Array array = view_of(object, entry, name);
        view = array.view;
        keep[kept++] = std::move(array.keep);
    };
    for (Part& part : parts) take(*part.in, part.array, part.name);
    if (!cu_seqlens_k.is_none()) take(t.cu_seqlens_k, cu_seqlens_k, "cu_seqlens_k");
    if (t.k.rank != 3 && t.k.rank != 4) fail(Code::invalid_argument, "k", "3 or 4 dimensions are needed");
    if (t.v.rank != t.k.rank) fail(Code::invalid_argument, "v", "as many dimensions as k are needed");
    const bool packed = t.k.rank == 3;
    const auto seq_at = packed ? 0u : 1u;
    const std::int64_t batch = packed ? std::max<std::int64_t>(0, t.cu_seqlens_k.shape[0] - 1) : t.k.shape[0];
    const std::int64_t longest = packed && max_seqlen_k ? std::min(*max_seqlen_k, t.k.shape[0]) : t.k.shape[seq_at];
    for (Part& part : parts) {
        const auto& s = part.in->shape;
        const bool turned = transpose_v && part.in == &t.v;
        const nb::tuple shape = packed ? (turned ? nb::make_tuple(s[1], s[2], s[0]) : nb::make_tuple(s[0], s[1], s[2]))
                                       : (turned ? nb::make_tuple(s[0], s[2], s[3], s[1]) : nb::make_tuple(s[0], s[1], s[2], s[3]));
        part.stored = empty(part.array, entry, shape, DType::e4m3, part.name);
        part.scales = empty(part.array, entry, shape_of_scale(part, batch, longest, scale_block), DType::f32, part.scale_name);
        take(*part.out, part.stored, part.name);
        take(*part.scale, part.scales, part.scale_name);
    }
    nb::object mean = nb::none();
    if (smooth_k) {
        const auto heads_at = static_cast<std::size_t>(t.k.rank - 2);
        mean = empty(k, entry, nb::make_tuple(batch, t.k.shape[heads_at], t.k.shape[heads_at + 1]), DType::f32, "k_mean");
        take(t.k_mean, mean, "k_mean");
    }
    const Stream on = stream.is_none() ? current_stream(entry, t.k) : stream_from(stream);
    Result<void> done;
    {
        nb::gil_scoped_release release;
        done = quantize_kv(t, options, on);
    }
    unwrap(std::move(done));
    return nb::make_tuple(parts[0].stored, parts[1].stored, parts[0].scales, parts[1].scales, mean);
}

}  // namespace

void define_quantize(nb::module_& m) {
    using namespace nb::literals;
    m.def("quantize", &quantize, "k"_a, "v"_a, nb::kw_only(), "k_scale"_a = "sequence", "v_scale"_a = "sequence", "scale_block"_a = nb::none(),
          "smooth_k"_a = false, "transpose_v"_a = false, "cu_seqlens_k"_a = nb::none(), "max_seqlen_k"_a = nb::none(), "stream"_a = nb::none(),
          doc::quantize);
}

}  // namespace hopfill::python
