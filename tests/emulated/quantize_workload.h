// A small problem for the quantiser's kernels, with its answer: run under many schedules, as workload.h does for attention.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "emulator/quantize.h"
#include "workload.h"

namespace hopfill::testing {

struct QuantizeCase {
    std::string name;
    ScaleKind kind = ScaleKind::tensor;
    int scale_block = 0;  // tokens, with ScaleKind::block
    bool f16 = false;
    bool packed = false;
    bool smoothed = false;    // keys: means are computed and subtracted
    bool transposed = false;  // values: the output is
    int heads = 2, head_dim = 48;
    std::vector<int> lens{1};  // dense: equal ones
};

// Every kind of scale, dense and packed, plain and smoothed, transposed or not; ragged tails of tiles, empty sequences.
std::vector<QuantizeCase> quantize_cases();
QuantizeCase random_quantize_case(std::uint64_t seed);

// Numbers whose sums are exact in any order: scales, means and bytes are then the same to the bit, whoever computes them.
class QuantizeWorkload {
public:
    QuantizeWorkload(const QuantizeCase& c, std::uint64_t data_seed);
    QuantizeWorkload(const QuantizeWorkload&) = delete;
    QuantizeWorkload& operator=(const QuantizeWorkload&) = delete;

    // `runner` runs one launch: emulator::run_quantizer, or another kernel.
    using Runner = std::function<emulator::Report(const planner::QuantizeLaunch&, const emulator::Options&)>;
    Outcome run(const emulator::Options& options, const Runner& runner);

    // For other machines: host memory, outputs poisoned; the launches on copies of it, in the order of its members; and what the host has.
    struct Memory {
        std::vector<std::uint16_t> in;
        std::vector<i32> cu;
        std::vector<std::uint8_t> out;
        std::vector<float> scale, mean;
    };
    Memory& poisoned();
    Result<std::vector<planner::QuantizeLaunch>> launches(void* in, void* cu, void* out, void* scale, void* mean) const;
    // Scales, means and bytes.
    std::vector<std::uint8_t> output() const;

private:
    void define();

    QuantizeCase c_;
    AttentionProblem problem_;
    ScaleLayout layout_;
    Memory memory_;
    std::vector<std::uint8_t> expected_out_;
    std::vector<float> expected_scale_, expected_mean_;
};

// The launch that makes 16-bit copies of e4m3 K and V, alone: every number there is, rows and heads with gaps.
struct WidenCase {
    std::string name;
    bool f16 = false, packed = false;
    int batch = 1, seq = 1, heads = 2, head_dim = 64;  // packed: batch * seq tokens
};
std::vector<WidenCase> widen_cases();

class WidenWorkload {
public:
    explicit WidenWorkload(const WidenCase& c);
    Outcome run(const emulator::Options& options, const QuantizeWorkload::Runner& runner);

    // For other machines: host memory, outputs poisoned, and the launch on copies of it.
    struct Memory {
        std::vector<std::uint8_t> k, v;
        std::vector<std::uint16_t> k_out, v_out;
    };
    Memory& poisoned();
    planner::QuantizeLaunch launch(void* k, void* v, void* k_out, void* v_out) const;
    std::vector<std::uint8_t> output() const;

private:
    TensorView view(void* data, bool of_v) const;

    WidenCase c_;
    AttentionProblem problem_;
    Memory memory_, expected_;
};

}  // namespace hopfill::testing
