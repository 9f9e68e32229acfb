// FP16 and BF16 keys and values to E4M3 with scales, as attention() takes them.
#pragma once

#include "hopfill/attention.h"

namespace hopfill {

/// k, v          f16 or bf16, [batch, seq, kv_heads, head_dim] or packed [tokens, kv_heads, head_dim] with cu_seqlens_k i32 [batch + 1]; either may
/// be
///               absent, with its outputs
/// k_out, v_out  e4m3 of the same shape; v_out transposed where asked: [batch, kv_heads, head_dim, seq], packed [kv_heads, head_dim, tokens]
/// k_scale, v_scale  f32 outputs, whose shapes say how finely to scale, as in AttentionTensors; elements of blocks that hold no token are not written
/// k_mean        f32 output [batch, kv_heads, head_dim], contiguous; where present, K is smoothed: the mean of each (sequence, KV head, channel) over
///               its keys is written here and subtracted before K is rounded. Every logit of a row moves by the same scale * q . k_mean, so attention
///               over smoothed keys gives the same o, and an lse that is less by that: add it (restore_lse()) where the lse is used.
/// A scale is the greatest finite magnitude of what it scales over 448, the greatest number of E4M3, and at least 2^-126. Infinities become
/// +-448, NaNs stay. Tokens that belong to no sequence are neither read nor written.
struct QuantizeTensors {
    TensorView k, v, cu_seqlens_k;
    TensorView k_out, v_out, k_scale, v_scale, k_mean;
};

struct QuantizeOptions {
    std::optional<std::int64_t> max_seqlen_kv;  ///< packed: default the tokens
    std::optional<std::int64_t> scale_block;    ///< 64 or 128, with a scale by block
    bool v_transposed = false;
    Backend backend = Backend::automatic;
};

/// On sm90 it is asynchronous on `stream`, copies nothing to the host, and may be captured once the same call has run before.
/// Errors: invalid_argument and unsupported, naming the tensor, the value found and what is allowed. Host tensors: cu_seqlens_k is checked.
Result<void> quantize_kv(const QuantizeTensors& tensors, const QuantizeOptions& options = {}, Stream stream = nullptr);

/// Adds scale * q_scale * (q . k_mean) to the lse of an attention() call whose k was smoothed, on the host: lse then is that of the keys as they
/// were. `attention` and `options` are that call's.
Result<void> restore_lse(const AttentionTensors& attention, const AttentionOptions& options, const TensorView& k_mean);

}  // namespace hopfill
