// A small attention problem for a kernel under the emulator, with its answer: run under many schedules.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "emulator/backend.h"
#include "plan/launch.h"

namespace hopfill::testing {

struct Case {
    std::string name;
    int head_dim = 64;
    bool f16 = false;          // q, k, v and o; with fp8 o alone, with fp8_kv alone q and o
    bool e4m3_out = false;     // fp8: o too
    bool fp8 = false;          // e4m3 q, k and v, with multipliers
    bool fp8_kv = false;       // e4m3 k and v, with multipliers
    int scale_block = 0;       // fp8: tokens that share a multiplier
    bool v_transposed = false; // fp8: rows of v are of tokens
    bool causal = false;
    bool packed = false;
    int heads = 2, kv_heads = 1;
    std::vector<int> q_lens{1}, kv_lens{1};  // dense: equal lengths, one a sequence
    int blocks = 2;                          // SMs of the device, so that a block has several tiles
    int heads_per_group = 0;                 // dense: whose tiles run together; 0 is the planner's choice
    int split_jobs = 0, parts = 1;           // kernels that split: how many, in how many parts; 0 is the planner's choice
    int variant = -1;                        // of the planner's tables; -1 is the planner's choice
    // Small integers whose logits, times a scale of ln 2, are few whole powers of two apart: every product and sum of the kernel is exact in any
    // order (fp8: but for what the tensor core cuts off), so that the emulator and a GPU must agree in every bit of the output.
    bool integers = false;
    // The logits of a sequence's first keys, which are read last, are far above the others': of odd heads so far that their exponentials overflow. Or
    // all logits are sums of integers about 2^20.
    bool jumps = false, huge = false;
    // One key, read last, whose logit is, of some rows, 126.7 octaves above all others, which are 0: its exponential by their reference, and the sum,
    // are finite, but the sum's inverse is flushed.
    bool flushes = false;
};

// Cases that give every kernel three times as many KV blocks as its rings have stages, several tiles a block and ragged tails. One per (head
// dimension, mask, layout, dtype) of the table.
std::vector<Case> family_cases();

// A batch of sequences of one tile and a block or two of keys (of a dense kernel: one block each), all in one thread block: rings of queries and
// jobs turn as fast as they can.
Case short_jobs_case(int variant);

// A dense kernel's: jobs of 18 blocks of keys, of which 16 and more need no mask.
Case long_job_case(int variant);

// The kernel's family case with logits that jump.
Case jumping_case(int variant, bool huge = false);
// With a sum whose inverse is flushed.
Case flushing_case(int variant);

// Kernels whose outputs are compared with a GPU's: all of the catalogue, and of those that are compiled at first use two of each head dimension.
bool travels(const KernelConfig& k);

// Two problems of integers for every kernel that travels, a long and a random one; the name tells the problem.
std::vector<Case> integer_cases();

// A random problem for row `variant` of the table: lengths, heads, padding and blocks drawn from the seed.
Case random_case(int variant, std::uint64_t seed);

struct Outcome {
    std::string kind = "clean";  // or the fault's kind, "wrong" when the oracle disagrees, "error"
    std::string text;
    std::uint64_t steps = 0;
};

class Workload {
public:
    Workload(const Case& c, std::uint64_t data_seed);
    ~Workload();
    using Runner = std::function<Result<emulator::Report>(const planner::LaunchSpec&, const emulator::Options&)>;
    // `runner` is emulator::run, or runs another kernel.
    Outcome run(const emulator::Options& options, const Runner& runner);
    std::string kernel_name() const;

    // For other machines: what is to be run, the tensors on the host (outputs poisoned), and what was computed last.
    const Plan& plan() const;
    AttentionTensors tensors();
    const std::vector<std::uint8_t>& output() const;
    const std::vector<float>& lse() const;

private:
    struct Data;
    std::unique_ptr<Data> data_;
};

}  // namespace hopfill::testing
