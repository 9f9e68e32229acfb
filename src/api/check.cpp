#include "hopfill/check.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "api/check_internal.h"

namespace hopfill::check {
namespace {

// Gives the target's memory back on every way out.
class Uploads {
public:
    explicit Uploads(Target& target) : target_(target) {}
    Uploads(const Uploads&) = delete;
    Uploads& operator=(const Uploads&) = delete;
    ~Uploads() {
        for (Buffer* b : buffers_) target_.release(b->target);
    }
    Result<void> add(Buffer& b) {
        if (b.bytes.empty()) return {};
        auto p = target_.allocate(b.bytes.size());
        if (!p) return p.error();
        b.target = *p;
        buffers_.push_back(&b);
        return target_.upload(b.target, b.bytes.data(), b.bytes.size());
    }

private:
    Target& target_;
    std::vector<Buffer*> buffers_;
};

void append_rows(const Built& b, const TensorView& t, bool is_lse, std::vector<std::byte>& out) {
    const std::int64_t width = (is_lse ? 1 : b.problem.head_dim) * size_of(t.dtype);
    for (std::size_t s = 0; s < b.q_lens.size(); ++s) {
        const auto sequence = static_cast<std::int64_t>(s);
        for (std::int64_t outer = 0; outer < (is_lse ? b.problem.heads : b.q_lens[s]); ++outer) {
            for (std::int64_t inner = 0; inner < (is_lse ? b.q_lens[s] : b.problem.heads); ++inner) {
                const std::int64_t at =
                    is_lse ? lse_offset(t, sequence, b.q_begin[s], inner, outer) : offset(t, sequence, b.q_begin[s], outer, inner);
                const auto* p = static_cast<const std::byte*>(t.data) + at * size_of(t.dtype);
                out.insert(out.end(), p, p + width);
            }
        }
    }
}

Outcome failed(const Error& error, bool may_skip) {
    Outcome outcome;
    outcome.status = may_skip && error.code == Code::unsupported ? Outcome::Status::skipped : Outcome::Status::failed;
    outcome.text = error.text();
    return outcome;
}

// Inputs are read-only.
Result<void> check_inputs(const Built& b, Target& target) {
    const std::array<std::pair<const Buffer*, const char*>, 8> inputs{{{&b.q, "q"},
                                                                       {&b.k, "k"},
                                                                       {&b.v, "v"},
                                                                       {&b.cu_q, "cu_seqlens_q"},
                                                                       {&b.cu_k, "cu_seqlens_k"},
                                                                       {&b.q_scale, "q_scale"},
                                                                       {&b.k_scale, "k_scale"},
                                                                       {&b.v_scale, "v_scale"}}};
    for (const auto& [buffer, name] : inputs) {
        std::vector<std::byte> now(buffer->bytes.size());
        if (now.empty()) continue;
        if (auto r = target.download(now.data(), buffer->target, now.size()); !r) return r;
        if (now != buffer->bytes) return Error{Code::internal, name, "an input was overwritten"};
    }
    return {};
}

// Poisons the outputs, runs, and brings them back into b.
Result<void> run_once(Built& b, Target& target, const AttentionTensors& tensors, std::uint64_t schedule) {
    for (Buffer* out : {&b.o, &b.lse}) {
        if (out->bytes.empty()) continue;
        poison(*out, out == &b.o ? b.host.o.dtype : DType::f32);
        if (auto r = target.upload(out->target, out->bytes.data(), out->bytes.size()); !r) return r;
    }
    if (auto r = target.run(b.problem, tensors, b.options, schedule); !r) return r;
    for (Buffer* out : {&b.o, &b.lse}) {
        if (out->bytes.empty()) continue;
        if (auto r = target.download(out->bytes.data(), out->target, out->bytes.size()); !r) return r;
    }
    return {};
}

}  // namespace

Outcome run_case(const Case& c, Target& target, const RunOptions& options) {
    Built b = build(c, options.threads);
    Uploads uploads(target);
    for (Buffer* buffer : {&b.q, &b.k, &b.v, &b.o, &b.lse, &b.cu_q, &b.cu_k, &b.q_scale, &b.k_scale, &b.v_scale}) {
        if (auto r = uploads.add(*buffer); !r) return failed(r.error(), false);
    }
    const Device device = target.device();
    AttentionTensors tensors;
    tensors.q = b.q.on_target(b.host.q, device);
    tensors.k = b.k.on_target(b.host.k, device);
    tensors.v = b.v.on_target(b.host.v, device);
    tensors.o = b.o.on_target(b.host.o, device);
    if (b.host.q_scale.present()) tensors.q_scale = b.q_scale.on_target(b.host.q_scale, device);
    if (b.host.k_scale.present()) tensors.k_scale = b.k_scale.on_target(b.host.k_scale, device);
    if (b.host.v_scale.present()) tensors.v_scale = b.v_scale.on_target(b.host.v_scale, device);
    if (c.lse) tensors.lse = b.lse.on_target(b.host.lse, device);
    if (c.packed) {
        tensors.cu_seqlens_q = b.cu_q.on_target(b.host.cu_seqlens_q, device);
        tensors.cu_seqlens_k = b.cu_k.on_target(b.host.cu_seqlens_k, device);
    }
    b.options.backend = target.backend();
    Outcome outcome;
    std::vector<std::byte> first_o, first_lse;
    for (int schedule = 0; schedule < std::max(1, options.schedules); ++schedule) {
        if (auto r = run_once(b, target, tensors, c.seed + static_cast<std::uint64_t>(schedule)); !r) {
            // The sm90 kernels do not take all that the API does (mixed dtypes, negative scales), and the emulator holds those that it was compiled
            // with: a refusal is no wrong answer, and it is counted. cpu and oracle owe every case an answer.
            return failed(r.error(), target.backend() == Backend::emulated || target.backend() == Backend::sm90);
        }
        if (schedule == 0) {
            judge(c, b, options, outcome);
            first_o = b.o.bytes;
            first_lse = b.lse.bytes;
        } else if (b.o.bytes != first_o || b.lse.bytes != first_lse) {
            outcome.status = Outcome::Status::failed;
            outcome.text += fmt::format("{}schedule {} gives other bits than schedule 0", outcome.text.empty() ? "" : "; ", schedule);
        }
        if (outcome.status == Outcome::Status::failed) break;
    }
    if (auto r = check_inputs(b, target); !r) return failed(r.error(), false);
    if (options.keep_output) {
        append_rows(b, b.host.o, false, outcome.output);
        if (c.lse) append_rows(b, b.host.lse, true, outcome.output);
    }
    return outcome;
}

namespace {

void count(Summary& summary, const Case& c, const Outcome& outcome, const std::string& command) {
    using Status = Outcome::Status;
    summary.passed += outcome.status == Status::passed;
    summary.failed += outcome.status == Status::failed;
    summary.skipped += outcome.status == Status::skipped;
    if (outcome.o.used > summary.worst_o) {
        summary.worst_o = outcome.o.used;
        summary.worst_case = to_string(c);
    }
    summary.worst_lse = std::max(summary.worst_lse, outcome.lse.used);
    if (outcome.status == Status::failed) summary.failures.push_back(fmt::format("{}: {}\n    {}", to_string(c), outcome.text, command));
}

}  // namespace

Result<Summary> run(const Options& options, Target& target, const Progress& progress) {
    Limits limits = limits_for(target.backend());
    auto features = parse_features(options.features);
    if (!features) return features.error();
    if (options.first < 0 || options.cases < 0) return Error{Code::invalid_argument, "cases", "first and cases must not be negative"};
    if (options.max_seq < 0) return Error{Code::invalid_argument, "max_seq", "must not be negative"};
    if (options.run.schedules < 1) return Error{Code::invalid_argument, "schedules", "must be at least 1"};
    // A backend without a feature never gets it, whatever the list says.
    const Features offered = limits.features;
    limits.features = *features;
    limits.features.f32 = features->f32 && offered.f32;
    limits.features.fp8 = features->fp8 && offered.fp8;
    limits.features.long_kv = features->long_kv && offered.long_kv;
    if (options.max_seq > 0) limits.max_seq = options.max_seq;
    Summary summary;
    for (std::int64_t i = options.first; i < options.first + options.cases; ++i) {
        const Case c = random_case(options.seed, i, limits);
        const Outcome outcome = run_case(c, target, options.run);
        count(summary, c, outcome, repeat_command(options, i));
        if (progress) progress(i, c, outcome);
    }
    return summary;
}

Summary run(const std::vector<Case>& cases, Target& target, const RunOptions& options, const Progress& progress) {
    Summary summary;
    for (std::size_t i = 0; i < cases.size(); ++i) {
        const Outcome outcome = run_case(cases[i], target, options);
        count(summary, cases[i], outcome, repeat_command(cases[i], target.backend()));
        if (progress) progress(static_cast<std::int64_t>(i), cases[i], outcome);
    }
    return summary;
}

std::string repeat_command(const Options& options, std::int64_t index) {
    std::string command = fmt::format("hopfill check --backend {} --seed {} --first {} --cases 1", name_of(options.backend), options.seed, index);
    if (options.features != "all") command += fmt::format(" --features {}", options.features);
    if (options.max_seq > 0) command += fmt::format(" --max-seq {}", options.max_seq);
    if (options.run.schedules > 1) command += fmt::format(" --schedules {}", options.run.schedules);
    return command;
}

std::string repeat_command(const Case& c, Backend backend) {
    return fmt::format("hopfill check --backend {} --case '{}'", name_of(backend), to_string(c));
}

}  // namespace hopfill::check
