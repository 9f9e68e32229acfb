// Prefill attention: o = softmax(scale * q k^T + mask) v, per sequence and head (Vaswani et al. 2017, equation 1), with the log-sum-exp of each
// row's scaled logits. Two steps: plan() decides, from bounds and layouts alone, which kernel runs and how; run() launches it.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "hopfill/result.h"
#include "hopfill/tensor.h"

namespace hopfill {

enum class Backend : std::uint8_t {
    automatic,  ///< sm90 for tensors on a Hopper GPU, cpu for tensors on the host
    sm90,       ///< WGMMA and TMA kernels on a GPU of compute capability 9.0
    cpu,        ///< blocked online softmax, SIMD, all cores
    emulated,   ///< the sm90 kernels, run by the Hopper emulator on the host: slow, finds faults
    oracle,     ///< naive float64: judges the others
};
/// "auto", "sm90", "cpu", "emulated", "oracle".
std::string_view name_of(Backend backend);
/// The inverse of name_of.
Result<Backend> backend_from_name(std::string_view name);

/// Element strides of a [batch, seq, heads, head_dim] tensor whose last stride is 1. Packed tensors have no batch stride (0).
struct Strides {
    std::int64_t batch = 0, seq = 0, head = 0;
    bool operator==(const Strides&) const = default;
};

/// How finely a tensor of FP8 multipliers divides what it scales. What an element of an E4M3 tensor stands for is its value times its scale.
enum class ScaleKind : std::uint8_t {
    none,      ///< absent: 1
    tensor,    ///< [1]
    head,      ///< q: [heads]; k, v: [kv_heads]
    sequence,  ///< [batch, kv_heads]
    block,     ///< [batch, kv_heads, ceil(max_seqlen / scale_block) or more]: blocks of tokens, counted from each sequence's start
    channel,   ///< v alone: [kv_heads, head_dim]
};

/// Where a scale lies: element strides, 0 for what it does not depend on. Heads are query heads for the kind `head` of q, else KV heads.
struct ScaleLayout {
    ScaleKind kind = ScaleKind::none;
    std::int64_t batch = 0, head = 0, block = 0, channel = 0;
    bool operator==(const ScaleLayout&) const = default;
};

/// What is to be computed, without data and without the lengths of ragged sequences: what a plan depends on.
struct AttentionProblem {
    DType dtype = DType::bf16;          ///< of q
    DType kv_dtype = DType::bf16;       ///< of k and v: that of q, or e4m3 with a 16-bit q
    DType out_dtype = DType::bf16;      ///< of o
    bool packed = false;                ///< ragged: [tokens, heads, head_dim] with cu_seqlens; else dense [batch, seq, heads, head_dim]
    bool v_transposed = false;          ///< v is [batch, kv_heads, head_dim, seq], packed [kv_heads, head_dim, tokens]
    bool causal = false;                ///< bottom-right aligned: query i of s_q sees keys j <= i + s_kv - s_q
    std::int64_t batch = 0;             ///< sequences
    std::int64_t heads = 0;             ///< query heads, a multiple of kv_heads
    std::int64_t kv_heads = 0;          ///< 1 is MQA, == heads is MHA
    std::int64_t head_dim = 0;          ///< of q, k, v and o: a multiple of 8, with e4m3 of 16; at most 256
    std::int64_t max_seqlen_q = 0;      ///< dense: the length; packed: an upper bound
    std::int64_t max_seqlen_kv = 0;
    std::int64_t tokens_q = 0;          ///< dense: batch * max_seqlen_q; packed: rows of q
    std::int64_t tokens_kv = 0;
    double scale = 0;                   ///< multiplies q k^T; finite
    bool want_lse = false;
    bool batch_invariant = false;       ///< a sequence's bits do not depend on what else is in the batch
    /// What Plan::scratch_bytes may be; absent: whatever is fastest. Where it is given, batch-invariant problems of 16-bit q have no copies up to
    /// head_dim 128: whether there is room for them depends on the batch.
    std::optional<std::int64_t> max_scratch_bytes;
    Strides q, k, v, o;                 ///< v_transposed: v.seq is the stride from one channel to the next
    ScaleLayout q_scale, k_scale, v_scale;
    std::int64_t scale_block = 0;       ///< tokens of a block where a scale is of kind block, 64 or 128; else 0
    bool operator==(const AttentionProblem&) const = default;
};

/// What the planner needs to know of a GPU: data, so that any GPU's plan can be made on any machine.
struct DeviceInfo {
    std::string name = "NVIDIA H100 80GB HBM3";
    int sm_major = 9, sm_minor = 0;
    int num_sms = 132;
    int shared_memory_per_block = 232448;  ///< bytes, opt-in limit
    std::int64_t l2_bytes = 50 << 20;
    bool operator==(const DeviceInfo&) const = default;
};

/// How a problem is computed. Pure data: comparable and printable; holds no pointer and no handle.
struct Plan {
    AttentionProblem problem;
    Backend backend = Backend::automatic;  ///< resolved: never automatic
    // The rest describes a kernel and is zero for the cpu and oracle backends.
    std::string kernel;                ///< printed KernelConfig, e.g. "prefill_bf16_hd128_causal_m128n128s2"
    int variant = -1;                  ///< internal: the kernel's place in the planner's table of this library version
    int tile_m = 0;                    ///< query rows of a tile (all consumer warpgroups together)
    int tile_n = 0;                    ///< keys of a KV block
    int stages = 0;                    ///< KV blocks in flight
    int threads = 0;                   ///< of a block
    int grid = 0;                      ///< blocks
    int shared_bytes = 0;              ///< dynamic shared memory of a block
    std::int64_t jobs = 0;             ///< (query tile, head, sequence) triples; for ragged batches a bound
    std::int64_t split_jobs = 0;       ///< of them: the last ones, or with a mask the longest, whose keys blocks share
    int parts = 1;                     ///< of a split job's keys
    std::int64_t heads_per_group = 0;  ///< query heads whose jobs run together, while L2 has their K and V
    std::int64_t scratch_bytes = 0;    ///< device memory that a run takes, stream-ordered, and gives back: copies of k and v, outputs of parts
    double modelled_us = 0;            ///< cost model's estimate of the time, the copies' included
    bool operator==(const Plan&) const = default;

    /// Several lines for people: kernel, tiles, shared memory, jobs and order.
    [[nodiscard]] std::string to_string() const;
};

/// The tensors of a call. Absent ones have rank 0.
///   dense   q [batch, seq_q, heads, head_dim], k and v [batch, seq_kv, kv_heads, head_dim], o as q, lse f32 [batch, heads, seq_q]
///   packed  q [tokens_q, heads, head_dim], k and v [tokens_kv, kv_heads, head_dim], o as q, lse f32 [heads, tokens_q],
///           cu_seqlens_q and cu_seqlens_k i32 [batch + 1], from 0, non-decreasing, on the same device
/// A row with no key gives o = 0 and lse = -infinity. lse is the natural logarithm.
///
/// q, k and v have one dtype, or k and v are e4m3 and q is f16 or bf16. o is f32, f16 or bf16, and with an e4m3 q also e4m3, which saturates at
/// +-448. E4M3 tensors may have scales, float32 multipliers on the same device, of any non-negative strides (0 broadcasts); see ScaleKind for their
/// shapes. Shapes are told apart so: [1] is one for the tensor, rank 1 else by head; rank 2 is [batch, kv_heads], for v also
/// [kv_heads, head_dim], and refused where it could be both; rank 3 is by block of AttentionOptions::scale_block tokens. Scales of blocks that no
/// token of a sequence lies in, and of sequences without tokens, are not read as numbers: they may be NaN.
struct AttentionTensors {
    TensorView q, k, v, o, lse, cu_seqlens_q, cu_seqlens_k;
    TensorView q_scale{}, k_scale{}, v_scale{};
};

/// Options that the tensors do not show.
struct AttentionOptions {
    bool causal = false;
    std::optional<double> scale;                 ///< default 1/sqrt(head_dim)
    std::optional<std::int64_t> max_seqlen_q;    ///< packed: default tokens_q
    std::optional<std::int64_t> max_seqlen_kv;   ///< packed: default tokens_kv
    bool batch_invariant = false;
    std::optional<std::int64_t> max_scratch_bytes;  ///< device memory that a run may take (Plan::scratch_bytes), 0: none; default: any
    Backend backend = Backend::automatic;
    std::optional<std::int64_t> scale_block;     ///< tokens that share an element of a rank-3 scale: 64 or 128
    bool v_transposed = false;                   ///< e4m3 v given as [batch, kv_heads, head_dim, seq_kv], packed [kv_heads, head_dim, tokens_kv]
};

/// A CUDA stream handle (CUstream / cudaStream_t); null is the default stream. Ignored by host backends.
using Stream = void*;

/// Derives the problem from tensors and options, checking that they agree.
/// Errors: invalid_argument or unsupported, naming the tensor, the value found and what is allowed.
Result<AttentionProblem> describe(const AttentionTensors& tensors, const AttentionOptions& options);

/// Chooses backend, kernel, tiles and grid. Pure: equal arguments give equal plans; touches no device.
/// Errors: unsupported (dtype, head_dim, strides that TMA cannot address, compute capability), naming what is allowed.
Result<Plan> plan(const AttentionProblem& problem, const DeviceInfo& device, Backend backend = Backend::automatic);

/// Launches a plan. On sm90 it is asynchronous on `stream`, copies nothing to the host, and may be captured in a CUDA graph
/// (once the kernel is loaded: a first call, or load()). Pointers must agree with the planned problem, and q's device be current.
/// A plan with scratch_bytes takes that much device memory from a pool of the context while it runs, in the stream's order; a captured graph has an
/// allocation node for it, and can then be instantiated once at a time and be no child of another. Without that memory, run() takes a kernel that
/// needs none; of 16-bit q with e4m3 k and v it fails above head_dim 128, where there is none, and where the problem is batch_invariant, as
/// other bits would come out.
/// Packed lengths are on the device and are not checked there; host backends check cu_seqlens and refuse bad ones.
/// o and lse must not overlap the inputs. A NaN or infinity in v reaches every row of its own sequence's query tile, rows whose causal mask hides
/// it among them, and never another sequence.
/// One captured graph must not be replayed concurrently with itself: some kernels draw their jobs from a counter that belongs to the captured launch.
Result<void> run(const Plan& plan, const AttentionTensors& tensors, Stream stream = nullptr);

/// Compiles and loads a plan's kernel on the current device, so that the first run() costs no compilation.
Result<void> load(const Plan& plan);

/// describe(), plan() for the tensors' device and run() in one call; plans are kept, so repeated calls cost only the launch.
Result<void> attention(const AttentionTensors& tensors, const AttentionOptions& options = {}, Stream stream = nullptr);

}  // namespace hopfill
