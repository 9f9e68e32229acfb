// Docstrings: what `help(hopfill.attention)` shows.
#pragma once

namespace hopfill::python::doc {

constexpr const char* attention = R"(Prefill attention: out = softmax(scale * q k^T + mask) v for each sequence and head.

Arrays are of NumPy (float32, float16, and bfloat16 and float8_e4m3fn of the package ml_dtypes), of PyTorch (CPU or CUDA), or of any package that
speaks DLPack (then `out` is required); all of one call from the same package and on the same device. The last stride must be 1; the others are free
on the host, and on a GPU multiples of 16 bytes. Nothing is copied or converted. There is no backward pass.

Args:
    q: [batch, seq_q, heads, head_dim], or packed [tokens_q, heads, head_dim].
    k, v: [batch, seq_k, kv_heads, head_dim], or packed [tokens_k, kv_heads, head_dim]; dtype of q, or float8_e4m3fn with a float16 or
        bfloat16 q. heads is a multiple of kv_heads (GQA, MQA). head_dim is a multiple of 8, with float8 of 16, at most 256.
    causal: query i of seq_q sees keys j <= i + seq_k - seq_q (the last query sees every key).
    scale: multiplies q k^T; default 1 / sqrt(head_dim).
    cu_seqlens_q, cu_seqlens_k: int32 [batch + 1], packed only: where each sequence starts, from 0, non-decreasing; same device as q. On a GPU
        they are not read by the host, so their values are not checked there.
    max_seqlen_q, max_seqlen_k: upper bounds of the lengths, packed only; default tokens_q and tokens_k. Tight bounds give better plans.
    out: where the result goes, shaped as q; default a new array of q's package, in q's dtype (bfloat16 where q is
        float8), made on the package's current stream.
    out_dtype: dtype of a new `out`: 'float32', 'float16', 'bfloat16', with a float8 q 'float8_e4m3fn' (it saturates at 448), or a dtype of NumPy or
        PyTorch.
    return_lse: also return the natural-log log-sum-exp of each row's scaled logits.
    q_scale, k_scale, v_scale: float32 multipliers of float8 inputs, on their device: [1]; [heads], for k and v [kv_heads]; [batch, kv_heads]; or
        [batch, kv_heads, blocks of scale_block tokens]; v_scale also per channel, [kv_heads, head_dim]. Absent: 1.
    scale_block: 64 or 128, with scales by block; blocks are counted from each sequence's start.
    v_transposed: v is float8 [batch, kv_heads, head_dim, seq_k], packed [kv_heads, head_dim, tokens_k].
    max_scratch_bytes: device memory that the call may take, in the stream's order, for copies of k and v and outputs of parts
        (plan().scratch_bytes): 0 for none (16-bit q above head_dim 128 with float8 k and v needs some). Default no limit. A CUDA graph of a call
        that takes some has an allocation node: it can be instantiated once at a time, and be no child of another.
    backend: 'auto' (sm90 for CUDA tensors, cpu for host arrays), 'sm90', 'cpu', 'emulated' or 'oracle'.
    stream: CUDA stream to launch on: an int (cudaStream_t) or a stream of PyTorch or CuPy. Default: PyTorch's current stream of q's device; the
        legacy default stream for other packages. On another stream than the tensors', ordering is the caller's.

Returns:
    out, or (out, lse). lse is float32 [batch, heads, seq_q], packed [heads, tokens_q]. A row with no key has out 0 and lse -inf.
    On a GPU the call returns before the work is done and may be captured in a CUDA graph once the same call has run before.

Raises:
    hopfill.InvalidArgumentError (a ValueError): shapes, strides or options that contradict each other.
    hopfill.UnsupportedError (a ValueError): well-formed, but no kernel here computes it; the message says what is allowed.
    hopfill.UnavailableError (a RuntimeError): no GPU, no driver or no NVRTC for the backend.
    hopfill.DeviceError (a RuntimeError): the CUDA driver reported an error.
    TypeError: an argument that is no array, or arrays of different packages.)";

constexpr const char* plan = R"(How attention() would compute this call: kernel, tiles, grid. Arguments as attention()'s; nothing is launched.

Without a GPU, backend='sm90' plans for an H100 SXM.)";

constexpr const char* quantize = R"(FP16 or BF16 keys and values as float8_e4m3fn with scales, for attention().

Args:
    k, v: [batch, seq, kv_heads, head_dim], or packed [tokens, kv_heads, head_dim] with cu_seqlens_k; head_dim a multiple of 16.
    k_scale, v_scale: what shares a scale: 'tensor', 'head', 'sequence' (a head of a sequence), 'block' (scale_block of its tokens); for v also
        'channel'. A scale is the greatest finite magnitude over 448.
    scale_block: 64 or 128, with scales by block.
    smooth_k: subtract from k the mean of each (sequence, head, channel) over its keys. The attention's out stays; its lse is less by
        scale * q . k_mean in each row.
    transpose_v: v as attention(..., v_transposed=True) takes it: [batch, kv_heads, head_dim, seq], packed [kv_heads, head_dim, tokens].
    cu_seqlens_k, max_seqlen_k: as attention()'s.

Returns:
    (k, v, k_scale, v_scale, k_mean): float8 arrays of k's package, float32 scales, and the means, float32 [batch, kv_heads, head_dim], or None.
    Elements of tokens that belong to no sequence, and scales of blocks that hold none, are not written.)";

constexpr const char* plan_class = "How a problem is computed. Comparable; str() explains it in several lines.";

constexpr const char* info = R"(What this library and this machine can do; never raises.

Returns:
    {'version', 'backends': those that can run here, 'gpu': of the current device or None, 'driver', 'nvrtc': version, or why there is none,
    'kernels': the shipped catalogue, each with name, key, registers, shared (bytes), spills (bytes) and evidence}.)";

}  // namespace hopfill::python::doc
