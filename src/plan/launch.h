// From a plan and tensors to what a backend launches: pure host code, the same for the GPU and the emulator.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <vector>

#include "hopfill/attention.h"
#include "plan/kernel_config.h"
#include "plan/params.h"
#include "plan/quantize.h"
#include "plan/tensor_map.h"

namespace hopfill::planner {

// Everything of a launch but the encoded tensor maps, which need the driver (or the emulator): the backend encodes all that maps() names into params.
struct LaunchSpec {
    KernelConfig config;
    LaunchParams params{};       // the backend sets work_counter where config.dynamic, turning and parts_done where counting_words() > 0
    TensorMapSpec q, k, v, o;
    TensorMapSpec v_given, v_stored;  // config.v_turned
    TensorMapSpec k_odd, v_edge;      // config.v_transposed: k_odd of dense batches, v_edge of packed ones
    int grid = 0;                // blocks; 0 means that there is nothing to compute
    int threads = 0;
    int shared_bytes = 0;
    // takes_scratch(): the memory for copies of k and v, or for v transposed, which their maps are of, and for outputs of parts; reads_copies(): the
    // launch before that makes
    // them. The backend finds some, 256-byte aligned, and says where in place_scratch().
    std::optional<QuantizeLaunch> copying;
    std::int64_t scratch_bytes = 0;

    void place_scratch(void* memory);

    struct Map {
        const char* tensor = nullptr;
        const TensorMapSpec* from = nullptr;
        TensorMap LaunchParams::*to = nullptr;
    };
    // The last ones are empty where the kernel has fewer.
    std::array<Map, 6> maps() const;
};

// "prefill_bf16_hd128_causal_m128n128s2": every field of the config, no two configs alike.
std::string kernel_name(const KernelConfig& config);
// C++ text of the config, as NVRTC's name expressions take it: "hopfill::KernelConfig{...}".
std::string kernel_expression(const KernelConfig& config);

// The catalogue: kernels the planner may choose that every build compiles, in a fixed order.
const std::vector<KernelConfig>& kernel_table();
// Kernels the planner may choose too, which their first use compiles.
const std::vector<KernelConfig>& first_use_table();
// Candidates for tuning runs, which the planner never chooses.
const std::vector<KernelConfig>& tuning_table();
// Plan::variant indexes the catalogue, then the first-use table, then the tuning table.
const KernelConfig& kernel_at(int variant);
int variants();

// The kernel, grid and shared memory of a problem on an sm90 device. Errors: unsupported, naming what is allowed.
Result<Plan> choose(const AttentionProblem& problem, const DeviceInfo& device);
// The fastest of the kernels that need no scratch memory, for when there is none to be had.
Result<Plan> choose_without_scratch(const AttentionProblem& problem, const DeviceInfo& device);
// What can take a plan's place then. Where only V was to be transposed that is the kernel which does it for each job, with the same bits; else the
// fastest one, whose bits are its own. Errors: unsupported, also where a batch-invariant plan's bits would change.
Result<Plan> replace_without_scratch(const Plan& plan, const DeviceInfo& device);
// The same with the kernel given; an error when it does not fit the problem.
Result<Plan> plan_variant(const AttentionProblem& problem, const DeviceInfo& device, int variant);

// Of the records that parts of split jobs leave, which are scratch memory's last bytes.
std::int64_t part_bytes(const LaunchSpec& spec);
// Zeroed words of global memory that a launch counts with, beside the counter of jobs: what V's turning has, then what split jobs have.
std::size_t counting_words(const LaunchSpec& spec);
// Where they lie.
void place_words(const LaunchSpec& spec, LaunchParams& params, u32* words);

int shared_bytes(const KernelConfig& config);
// Jobs which blocks share (KernelConfig::splits): without a mask the last ones of a launch, with one the first, which are the longest.
struct Split {
    std::int64_t jobs = 0;  // that are split; 0: none
    int parts = 1;          // of each
};
Split split_of(const KernelConfig& config, const AttentionProblem& problem, const DeviceInfo& device);
// Of all jobs those that have a KV block for each of so many parts: without a mask all or none, with one the first.
std::int64_t splittable_jobs(const KernelConfig& config, const AttentionProblem& problem, int parts);
// A plan of a kernel that splits, with so many of its jobs, splittable ones, in so many parts each, on as many multiprocessors.
Plan with_split(Plan plan, const Split& split, int num_sms);
// Of a problem's copies of k and v, of v transposed, and of the outputs of parts: 0 but for takes_scratch().
std::int64_t scratch_bytes(const KernelConfig& config, const AttentionProblem& problem, const Split& split);
int threads(const KernelConfig& config);
// The kernel of the launch that makes them.
QuantizeConfig copying_for(const KernelConfig& config);
// The kernel that transposes V for each job, and splits none. With the same bits, where the other splits none, either.
KernelConfig without_turning(KernelConfig config);

// Lowers a plan onto tensors, which must be those of plan.problem (src/api checks that). Errors: a base that is null or not 16-byte aligned.
Result<LaunchSpec> make_launch(const Plan& plan, const AttentionTensors& tensors);

}  // namespace hopfill::planner
