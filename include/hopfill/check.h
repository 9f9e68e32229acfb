// Checking a backend against the float64 oracle: seeded problems, inputs with NaN all around, poisoned outputs, tolerances derived from formats
// and lengths.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "hopfill/attention.h"

namespace hopfill::check {

/// What the data look like. v is Gaussian in all of them.
enum class Input : std::uint8_t {
    gaussian,
    peaky,   ///< one key of each head dominates
    rising,  ///< logits rise with the key, so that the running maximum moves in every block
    large,   ///< logits of up to about +-30 000
};

/// One problem, data included: equal cases have equal bits on every machine.
struct Case {
    DType dtype = DType::bf16;     ///< of q
    DType kv_dtype = DType::bf16;  ///< of k and v
    DType out_dtype = DType::bf16;
    bool packed = false, causal = false, lse = true;
    bool loose_bounds = false;  ///< packed: the planner is told no longer bound than the tokens
    std::int64_t heads = 1, kv_heads = 1, head_dim = 64;
    std::vector<std::int64_t> q_lens{64}, kv_lens{64};  ///< one per sequence; dense: all equal
    std::int64_t tail = 0;                              ///< packed: tokens beyond the last sequence, which must be neither read nor written
    std::optional<double> scale;
    ScaleKind q_scale = ScaleKind::none, k_scale = ScaleKind::none, v_scale = ScaleKind::none;
    std::int64_t scale_block = 0;  ///< of scales by block
    bool v_transposed = false;
    Input input = Input::gaussian;
    std::uint64_t layout = 0;  ///< 0: contiguous; else the seed of orders, strides and gaps
    std::uint64_t nan = 0;     ///< 0: finite inputs; else the seed of planted NaNs (rows, or a whole sequence of a ragged batch)
    std::uint64_t seed = 1;    ///< of the data
    bool operator==(const Case&) const = default;
};

/// "bf16 d128 h8/2 causal packed q=5,0,17 kv=9,3,0 input=peaky lse layout=77 seed=3": parse_case() takes it back.
/// FP8: "e4m3 out=bf16 ... qs=block ks=head vs=channel block=64 vt", "bf16 kv_dtype=e4m3 ... ks=tensor vs=sequence".
std::string to_string(const Case& c);
/// Errors: invalid_argument, naming the word that is wrong.
Result<Case> parse_case(std::string_view text);

/// What random cases may use beyond bf16, dense, contiguous, full, MHA, equal lengths, Gaussian, the default scale, head dimensions 64 and 128.
struct Features {
    bool f16 = false, f32 = false, head_dim = false, gqa = false, causal = false, packed = false, empty = false, unequal = false, strided = false;
    bool lse = false, scale = false, negative_scale = false, inputs = false, nan = false, long_kv = false;
    bool fp8 = false;  ///< e4m3 q, k and v, or k and v alone, with scales of every kind
    bool operator==(const Features&) const = default;
};
/// The names that parse_features() takes: "f16", "f32", "head_dim", ...
std::vector<std::string_view> feature_names();
/// "all" or a comma-separated list. Errors: invalid_argument, naming the word and the list.
Result<Features> parse_features(std::string_view list);

/// How big random cases become.
struct Limits {
    Features features;
    std::int64_t max_seq = 700;  ///< keys or queries of a sequence; long_kv goes to eight times as many keys
    std::int64_t max_batch = 6;
    std::int64_t max_heads = 32;
    std::int64_t max_work = 60'000'000;  ///< heads * queries * keys * head_dim, which is what the oracle's time goes with
};
/// Everything that the backend is to support; small problems for the emulator.
Limits limits_for(Backend backend);

/// Case `index` of `seed`: depends on nothing else but the limits.
Case random_case(std::uint64_t seed, std::int64_t index, const Limits& limits);

/// The recorded grid: every head dimension class, dtype, GQA ratio, mask and length of DESIGN.md, 'Evidence', and 200 ragged batches.
std::vector<Case> evidence_grid();

/// Where cases run. The base class is the host: plain memory and hopfill::attention(). A GPU's overrides the memory.
class Target {
public:
    explicit Target(Backend backend) : backend_(backend) {}
    Target(const Target&) = delete;
    Target& operator=(const Target&) = delete;
    virtual ~Target() = default;

    [[nodiscard]] Backend backend() const { return backend_; }
    [[nodiscard]] virtual Device device() const { return {}; }
    /// At least 256-byte aligned.
    virtual Result<void*> allocate(std::size_t bytes);
    virtual void release(void* p);
    virtual Result<void> upload(void* to, const void* from, std::size_t bytes);
    virtual Result<void> download(void* to, const void* from, std::size_t bytes);
    /// Computes, and waits for the end. `schedule` seeds the emulator's random choices; other backends ignore it.
    virtual Result<void> run(const AttentionProblem& problem, const AttentionTensors& tensors, const AttentionOptions& options,
                             std::uint64_t schedule);

private:
    Backend backend_;
};

/// Errors of o or of lse over the judged rows, against float64. `reference_*` are those of an exact online softmax in the same formats.
struct Deviation {
    double rms = 0, max = 0;
    double reference_rms = 0, reference_max = 0;
    /// The worst of rms and max over what is allowed: above 1 fails.
    double used = 0;
};

struct Outcome {
    enum class Status : std::uint8_t { passed, failed, skipped };
    Status status = Status::passed;
    Deviation o, lse;
    std::int64_t rows_judged = 0;
    std::string text;               ///< why it failed or was skipped: one line
    std::vector<std::byte> output;  ///< o, then lse, contiguous in their logical order: what evidence hashes
};

struct RunOptions {
    int schedules = 1;         ///< runs of the case, each with another schedule (emulated)
    bool keep_output = false;  ///< fill Outcome::output
    int threads = 0;           ///< of the oracle; 0: all cores
};

/// Builds the case, runs it and judges every byte of the outputs. Never throws; what goes wrong is in the outcome.
Outcome run_case(const Case& c, Target& target, const RunOptions& options = {});

/// What `hopfill check` does.
struct Options {
    Backend backend = Backend::cpu;
    std::uint64_t seed = 1;
    std::int64_t first = 0;  ///< index of the first case
    std::int64_t cases = 100;
    std::string features = "all";
    std::int64_t max_seq = 0;  ///< 0: limits_for(backend)'s
    RunOptions run;
};

struct Summary {
    std::int64_t passed = 0, failed = 0, skipped = 0;
    double worst_o = 0, worst_lse = 0;  ///< greatest Deviation::used
    std::string worst_case;             ///< of worst_o
    std::vector<std::string> failures;  ///< "case text: why" and the command that repeats it, a line each
};

/// Called after each case, with its index.
using Progress = std::function<void(std::int64_t index, const Case& c, const Outcome& outcome)>;

/// Runs random cases. Errors: invalid_argument for bad options. A failing case is not an error: see Summary.
Result<Summary> run(const Options& options, Target& target, const Progress& progress = {});
/// Runs the given cases.
Summary run(const std::vector<Case>& cases, Target& target, const RunOptions& options = {}, const Progress& progress = {});

/// Errors of rows of o against float64.
struct RowErrors {
    double rms = 0, max = 0;
    std::int64_t rows = 0;
};
/// Errors over `rows` seeded rows of o, the last one among them, for problems that are too large to be judged wholly. The tensors lie on the host,
/// and o is computed. Errors: internal when an element of these rows is NaN or infinite and the oracle's is not, invalid_argument for negative rows.
Result<RowErrors> sampled_errors(const AttentionProblem& problem, const AttentionTensors& tensors, std::int64_t rows, std::uint64_t seed = 1);

/// The shell command that repeats case `index` of `options`.
std::string repeat_command(const Options& options, std::int64_t index);
/// The shell command that repeats a case that came from no seed.
std::string repeat_command(const Case& c, Backend backend);

}  // namespace hopfill::check
