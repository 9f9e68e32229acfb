// A problem to time, from a line of text, with its tensors on the GPU.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "hopfill/attention.h"
#include "hopfill/check.h"

namespace hopfill::gpu {

// "bf16 d128 h32/8 b4 s4096 causal": words in any order; b1 unless said; kv8192 for other lengths of k and v;
// packed, with s meaning every sequence's length, or len=100,200,300; lse to want it; e4m3 for q, k and v, and then vt for v given transposed;
// kv_e4m3 for k and v alone.
struct BenchProblem {
    std::string text;
    AttentionProblem problem;
    std::vector<std::int64_t> q_lens, kv_lens;

    // 4 * pairs of query and key that the mask leaves * heads * head_dim; half of all pairs when causal and s_q = s_kv.
    [[nodiscard]] double flops() const;
    // A small problem of the same kind, to check kernels with.
    [[nodiscard]] std::vector<check::Case> small_cases() const;
};

Result<BenchProblem> parse_problem(const std::string& text);

// Gaussian q, k, v (a block of random values, repeated), o and lse; reused from one problem to the next.
class BenchTensors {
public:
    ~BenchTensors();
    Result<AttentionTensors> make(const BenchProblem& p);

private:
    struct Buffer {
        void* data = nullptr;
        std::size_t bytes = 0;
    };
    Result<void> grow(Buffer& buffer, std::size_t bytes);
    Result<void> fill(Buffer& buffer, std::int64_t elements, DType dtype, unsigned seed);
    Buffer q_, k_, v_, o_, lse_, cu_q_, cu_k_, one_;
    std::map<std::pair<DType, unsigned>, std::vector<std::uint16_t>> blocks_;
};

}  // namespace hopfill::gpu
