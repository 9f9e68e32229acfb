// From K or V and what is to be made of them to the quantiser's launches, and from e4m3 K and V to the launch that copies them in 16 bits, or V
// transposed: pure host code, the same for the GPU and the emulator.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "hopfill/attention.h"
#include "plan/quantize_params.h"

namespace hopfill::planner {

// One of the two tensors. Layouts are those of attention; `in` and `out` agree in shape but for `transposed`.
struct QuantizeWork {
    TensorView in, out, scale, mean;  // mean: absent, or [batch, kv_heads, head_dim] to be computed and subtracted
    ScaleLayout layout;
    std::int64_t scale_block = 0;
    bool transposed = false;
};

struct QuantizeLaunch {
    QuantizeConfig config;
    QuantizeParams params{};
    WidenParams widen{};  // of QuantizeStage::widen, in place of params
    int grid = 0, threads = 0, shared_bytes = 0;
    // What the launch may touch, for the emulator: tensor and whether it writes it.
    std::vector<std::pair<TensorView, bool>> tensors;
};

// "quantize_bf16_round_transposed".
std::string kernel_name(const QuantizeConfig& config);
std::string kernel_expression(const QuantizeConfig& config);
// Every config.
std::vector<QuantizeConfig> quantize_kernels();

// In the order in which they must run. Of the problem it reads packed, batch, kv_heads, head_dim, tokens_kv and max_seqlen_kv.
// Errors: unsupported, for addresses and strides that 16-byte accesses cannot have.
Result<std::vector<QuantizeLaunch>> make_launches(const AttentionProblem& problem, const TensorView& cu_seqlens_k, const QuantizeWork& work);

// Copies of k and v, which are not empty, in 16 bits and without gaps. Where they go, place_copies() says.
QuantizeLaunch make_widening(const AttentionProblem& problem, const TensorView& k, const TensorView& v, Elem to);
void place_copies(QuantizeLaunch& widening, void* k, void* v);

}  // namespace hopfill::planner
