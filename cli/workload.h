// A problem with random tensors on a backend, to be timed.
#pragma once

#include <cstdint>
#include <vector>

#include "buffer.h"
#include "hopfill/check.h"
#include "hopfill/hopfill.h"

namespace hopfill::cli {

// Lengths of each sequence: all equal for a dense batch.
struct Shape {
    DType dtype = DType::bf16, out_dtype = DType::bf16;
    bool packed = false, causal = true;
    std::int64_t heads = 32, kv_heads = 32, head_dim = 128;
    std::vector<std::int64_t> q_lens, kv_lens;

    [[nodiscard]] std::int64_t tokens_q() const;
    [[nodiscard]] std::int64_t tokens_kv() const;
    // 4 s_q s_kv d of each head and sequence, halved when causal.
    [[nodiscard]] double flops() const;
};

class Workload {
public:
    // Errors: those of allocation and of describe().
    static Result<Workload> make(const Shape& shape, Backend backend, std::uint64_t seed);

    [[nodiscard]] const AttentionProblem& problem() const { return problem_; }
    [[nodiscard]] const AttentionTensors& tensors() const { return tensors_; }
    // Of o as it is now, against float64, over some rows. Errors: those of copying, and of what is no number.
    [[nodiscard]] Result<check::RowErrors> errors(std::int64_t rows) const;

private:
    std::vector<Buffer> memory_;
    AttentionTensors tensors_;
    AttentionProblem problem_;
};

// The plan of a workload on the GPU that is there, or on an H100 where none is needed.
Result<Plan> plan_for(const Workload& workload, Backend backend);

// UTC, "2026-01-31".
std::string today();
// The GPU's name, or the host's processor.
std::string machine_name(Backend backend);

}  // namespace hopfill::cli
