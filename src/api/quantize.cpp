// quantize_kv(): checks, and the backend.
#include "hopfill/quantize.h"

#include <cmath>
#include <utility>

#include "api/backends.h"
#include "api/error.h"
#include "api/layout.h"
#include "api/views.h"
#include "cpu/backend.h"
#include "cpu/quantize.h"
#include "cuda/backend.h"
#include "emulator/quantize.h"

namespace hopfill {
namespace {

// One of the two tensors with its outputs.
struct Part {
    const char *in_name, *out_name, *scale_name;
    const TensorView &in, &out, &scale;
    Scaled of;
};

Result<void> check_lengths(const QuantizeTensors& t, const QuantizeOptions& options, const TensorView& any, AttentionProblem& p) {
    if (!p.packed) {
        if (t.cu_seqlens_k.present()) return invalid("cu_seqlens_k", "is given with dense tensors; it goes with packed ones");
        if (options.max_seqlen_kv) return invalid("max_seqlen_kv", "is given with dense tensors, whose shapes say it; it goes with packed ones");
        p.batch = any.shape[0];
        p.max_seqlen_kv = any.shape[1];
        p.tokens_kv = p.batch * p.max_seqlen_kv;
        return {};
    }
    if (!t.cu_seqlens_k.present()) return invalid("cu_seqlens_k", "is absent; packed tensors need it, i32 [batch + 1]");
    HOPFILL_CHECK(check_view("cu_seqlens_k", t.cu_seqlens_k, 1, any.device));
    HOPFILL_CHECK(check_contiguous("cu_seqlens_k", t.cu_seqlens_k, DType::i32));
    if (t.cu_seqlens_k.shape[0] < 1) return invalid("cu_seqlens_k", "is empty; i32 [batch + 1] is needed");
    if (options.max_seqlen_kv && *options.max_seqlen_kv < 0) return invalid("max_seqlen_kv", "is {}; 0 or more is allowed", *options.max_seqlen_kv);
    p.batch = t.cu_seqlens_k.shape[0] - 1;
    p.tokens_kv = any.shape[0];
    p.max_seqlen_kv = std::min(options.max_seqlen_kv.value_or(p.tokens_kv), p.tokens_kv);
    return {};
}

// The sizes that k and v share.
Result<AttentionProblem> describe(const QuantizeTensors& t, const QuantizeOptions& options) {
    const TensorView& any = t.k.present() ? t.k : t.v;
    const char* name = t.k.present() ? "k" : "v";
    if (!any.present()) return invalid("k", "and v are absent; at least one is needed");
    if (any.rank != 3 && any.rank != 4) {
        return invalid(name, "has rank {}; [batch, seq, kv_heads, head_dim] or packed [tokens, kv_heads, head_dim] is needed", any.rank);
    }
    AttentionProblem p;
    p.packed = any.rank == 3;
    const auto heads_at = static_cast<std::size_t>(any.rank - 2);
    HOPFILL_CHECK(check_view(name, any, any.rank, any.device));
    p.heads = p.kv_heads = any.shape[heads_at];
    p.head_dim = any.shape[heads_at + 1];
    if (p.head_dim < 16 || p.head_dim > 256 || p.head_dim % 16 != 0) {
        return unsupported("head_dim", "is {}; multiples of 16 from 16 to 256 are allowed", p.head_dim);
    }
    HOPFILL_CHECK(check_lengths(t, options, any, p));
    return p;
}

Result<void> check_output(const char* name, const TensorView& view) {
    if (overlaps_itself(view)) return invalid(name, "has strides by which elements overlap");
    return {};
}

Result<ScaleLayout> check_part(const Part& part, const AttentionProblem& p, const QuantizeOptions& options, const TensorView& any) {
    HOPFILL_CHECK(check_view(part.in_name, part.in, any.rank, any.device));
    HOPFILL_CHECK(check_last_stride(part.in_name, part.in));
    if (part.in.dtype != DType::f16 && part.in.dtype != DType::bf16) {
        return unsupported(part.in_name, "is {}; f16 and bf16 are allowed", name_of(part.in.dtype));
    }
    HOPFILL_CHECK(check_view(part.out_name, part.out, any.rank, any.device));
    HOPFILL_CHECK(check_last_stride(part.out_name, part.out));
    if (part.out.dtype != DType::e4m3) return invalid(part.out_name, "is {}; e4m3 is needed", name_of(part.out.dtype));
    const bool transposed = part.of == Scaled::v && options.v_transposed;
    const auto rank = static_cast<std::size_t>(any.rank), first = rank - 3;
    for (std::size_t i = 0; i < rank; ++i) {
        HOPFILL_CHECK(check_dimension(part.in_name, part.in, i, any.shape[i], "k has is needed"));
        const std::size_t of_in = transposed && i >= first ? first + (i - first + 1) % 3 : i;
        HOPFILL_CHECK(
            check_dimension(part.out_name, part.out, i, any.shape[of_in], transposed ? "in v, transposed, is needed" : "in its input is needed"));
    }
    HOPFILL_CHECK(check_output(part.out_name, part.out));
    if (!part.scale.present()) return invalid(part.scale_name, "is absent; an f32 tensor for the scales is needed");
    HOPFILL_CHECK(check_output(part.scale_name, part.scale));
    return check_scale(part.scale_name, part.scale, p, any.device, part.of, options.scale_block);
}

// No output may share memory with another tensor.
Result<void> check_apart(const QuantizeTensors& t) {
    const std::pair<const char*, const TensorView*> all[] = {{"k", &t.k},
                                                             {"v", &t.v},
                                                             {"cu_seqlens_k", &t.cu_seqlens_k},
                                                             {"k_out", &t.k_out},
                                                             {"v_out", &t.v_out},
                                                             {"k_scale", &t.k_scale},
                                                             {"v_scale", &t.v_scale},
                                                             {"k_mean", &t.k_mean}};
    for (std::size_t output = 3; output < std::size(all); ++output) {
        for (std::size_t other = 0; other < output; ++other) {
            if (share_memory(*all[output].second, *all[other].second))
                return invalid(all[output].first, "overlaps {} in memory; it must not", all[other].first);
        }
    }
    return {};
}

Result<void> run(const AttentionProblem& p, const TensorView& cu_seqlens_k, const planner::QuantizeWork& work, Backend backend, Stream stream) {
    if (backend == Backend::cpu) return cpu::quantize(p, cu_seqlens_k, work);
    if (p.packed && backend == Backend::emulated) {
        HOPFILL_CHECK(cpu::check_lengths(cu_seqlens_k, "cu_seqlens_k", p.batch, p.tokens_kv, p.max_seqlen_kv));
    }
    const Result<std::vector<planner::QuantizeLaunch>> launches = planner::make_launches(p, cu_seqlens_k, work);
    HOPFILL_CHECK(launches);
    for (const planner::QuantizeLaunch& launch : *launches) {
        if (backend == Backend::sm90) {
            HOPFILL_CHECK(cuda::launch(launch, stream));
            continue;
        }
        emulator::Options options;
        const Result<std::uint64_t> seed = emulator_seed();
        HOPFILL_CHECK(seed);
        options.seed = *seed;
        const emulator::Report report = emulator::run_quantizer(launch, options);
        if (!report.faults.empty()) {
            const emulator::Fault& fault = report.faults.front();
            return Error{Code::internal, "", fmt::format("{}: {} ({}, seed {})", fault.kind, fault.text, planner::kernel_name(launch.config), *seed)};
        }
    }
    return {};
}

}  // namespace

Result<void> quantize_kv(const QuantizeTensors& t, const QuantizeOptions& options, Stream stream) {
    Result<AttentionProblem> described = describe(t, options);
    HOPFILL_CHECK(described);
    const AttentionProblem& p = *described;
    const TensorView& any = t.k.present() ? t.k : t.v;
    std::vector<planner::QuantizeWork> work;
    bool by_block = false;
    for (const Part& part :
         {Part{"k", "k_out", "k_scale", t.k, t.k_out, t.k_scale, Scaled::k}, Part{"v", "v_out", "v_scale", t.v, t.v_out, t.v_scale, Scaled::v}}) {
        if (!part.in.present()) {
            for (const auto& [name, view] : {std::pair{part.out_name, &part.out}, std::pair{part.scale_name, &part.scale}}) {
                if (view->present()) return invalid(name, "is given without {}", part.in_name);
            }
            continue;
        }
        Result<ScaleLayout> layout = check_part(part, p, options, any);
        HOPFILL_CHECK(layout);
        by_block = by_block || layout->kind == ScaleKind::block;
        const bool transposed = part.of == Scaled::v && options.v_transposed;
        work.push_back({canonical(part.in), canonical(part.out), part.scale, {}, *layout, options.scale_block.value_or(0), transposed});
    }
    if (options.scale_block && !by_block)
        return invalid("scale_block", "is {}; it goes with a scale of shape [batch, kv_heads, blocks], and there is none", *options.scale_block);
    if (options.v_transposed && !t.v.present()) return invalid("v_transposed", "is set without v");
    if (t.k_mean.present()) {
        if (!t.k.present()) return invalid("k_mean", "is given without k");
        HOPFILL_CHECK(check_view("k_mean", t.k_mean, 3, any.device));
        HOPFILL_CHECK(check_contiguous("k_mean", t.k_mean, DType::f32));
        HOPFILL_CHECK(check_dimension("k_mean", t.k_mean, 0, p.batch, "batch is needed"));
        HOPFILL_CHECK(check_dimension("k_mean", t.k_mean, 1, p.kv_heads, "kv_heads are needed"));
        HOPFILL_CHECK(check_dimension("k_mean", t.k_mean, 2, p.head_dim, "head_dim is needed"));
        work.front().mean = t.k_mean;
    }
    HOPFILL_CHECK(check_apart(t));
    const bool on_gpu = any.device.kind == Device::Kind::cuda;
    const Backend backend = options.backend != Backend::automatic ? options.backend : on_gpu ? Backend::sm90 : Backend::cpu;
    if (backend == Backend::oracle) return unsupported("backend", "is oracle; quantize_kv() has auto, sm90, cpu and emulated");
    if (on_gpu != (backend == Backend::sm90)) {
        return invalid(t.k.present() ? "k" : "v", "is on {}; the {} backend reads tensors on {}", on_gpu ? "a GPU" : "the host", name_of(backend),
                       on_gpu ? "the host" : "a GPU");
    }
    if (on_gpu) {
        const Result<DeviceInfo> device = cuda::device(any.device.index);
        HOPFILL_CHECK(device);
        if (device->sm_major != 9 || device->sm_minor != 0)
            return unsupported("backend", "is sm90, and {} has compute capability {}.{}; 9.0 is needed", device->name, device->sm_major,
                               device->sm_minor);
    }
    for (const planner::QuantizeWork& each : work) HOPFILL_CHECK(run(p, t.cu_seqlens_k, each, backend, stream));
    return {};
}

Result<void> restore_lse(const AttentionTensors& attention, const AttentionOptions& options, const TensorView& k_mean) {
    Result<AttentionProblem> described = describe(attention, options);
    HOPFILL_CHECK(described);
    const AttentionProblem& p = *described;
    if (!p.want_lse) return invalid("lse", "is absent");
    if (attention.q.device.kind != Device::Kind::cpu) return unsupported("q", "is on a GPU; restore_lse() reads tensors on the host");
    HOPFILL_CHECK(check_view("k_mean", k_mean, 3, attention.q.device));
    HOPFILL_CHECK(check_contiguous("k_mean", k_mean, DType::f32));
    HOPFILL_CHECK(check_dimension("k_mean", k_mean, 0, p.batch, "batch is needed"));
    HOPFILL_CHECK(check_dimension("k_mean", k_mean, 1, p.kv_heads, "kv_heads are needed"));
    HOPFILL_CHECK(check_dimension("k_mean", k_mean, 2, p.head_dim, "head_dim is needed"));
    if (p.packed) HOPFILL_CHECK(cpu::check_lengths(attention.cu_seqlens_q, "cu_seqlens_q", p.batch, p.tokens_q, p.max_seqlen_q));
    cpu::shift_lse(p, canonical(attention), static_cast<const float*>(k_mean.data));
    return {};
}

}  // namespace hopfill
