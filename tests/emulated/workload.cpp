#include "workload.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <stdexcept>

#include "emulator/formats.h"
#include "emulator/random.h"
#include "oracle/oracle.h"

namespace hopfill::testing {
namespace {

constexpr std::uint16_t kUnwritten = 0x7fff;

float normal(emulator::Random& r) {
    const double u = (static_cast<double>(r.next() >> 11) + 0.5) * 0x1p-53, v = static_cast<double>(r.next() >> 11) * 0x1p-53;
    return static_cast<float>(std::sqrt(-2 * std::log(u)) * std::cos(6.283185307179586 * v));
}

}  // namespace

struct Workload::Data {
    Case c;
    AttentionProblem problem;
    Result<Plan> plan = Error{};
    std::vector<std::uint16_t> q, k, v, o, expected_o;
    std::vector<float> lse, expected_lse;
    std::vector<i32> cu_q, cu_k;

    float value(std::uint16_t bits) const { return c.f16 ? emulator::from_f16(bits) : emulator::from_bf16(bits); }

    AttentionTensors tensors(std::vector<std::uint16_t>& out, std::vector<float>& out_lse) {
        const DType t = problem.dtype;
        AttentionTensors a;
        if (c.packed) {
            a.q = contiguous(q.data(), t, {problem.tokens_q, problem.heads, problem.head_dim});
            a.k = contiguous(k.data(), t, {problem.tokens_kv, problem.kv_heads, problem.head_dim});
            a.v = contiguous(v.data(), t, {problem.tokens_kv, problem.kv_heads, problem.head_dim});
            a.o = contiguous(out.data(), t, {problem.tokens_q, problem.heads, problem.head_dim});
            a.lse = contiguous(out_lse.data(), DType::f32, {problem.heads, problem.tokens_q});
            a.cu_seqlens_q = contiguous(cu_q.data(), DType::i32, {problem.batch + 1});
            a.cu_seqlens_k = contiguous(cu_k.data(), DType::i32, {problem.batch + 1});
        } else {
            a.q = contiguous(q.data(), t, {problem.batch, problem.max_seqlen_q, problem.heads, problem.head_dim});
            a.k = contiguous(k.data(), t, {problem.batch, problem.max_seqlen_kv, problem.kv_heads, problem.head_dim});
            a.v = contiguous(v.data(), t, {problem.batch, problem.max_seqlen_kv, problem.kv_heads, problem.head_dim});
            a.o = contiguous(out.data(), t, {problem.batch, problem.max_seqlen_q, problem.heads, problem.head_dim});
            a.lse = contiguous(out_lse.data(), DType::f32, {problem.batch, problem.heads, problem.max_seqlen_q});
        }
        return a;
    }
};

Workload::Workload(const Case& c, std::uint64_t data_seed) : data_(std::make_unique<Data>()) {
    Data& d = *data_;
    d.c = c;
    AttentionProblem& p = d.problem;
    p.dtype = p.out_dtype = c.f16 ? DType::f16 : DType::bf16;
    p.packed = c.packed;
    p.causal = c.causal;
    p.batch = static_cast<std::int64_t>(c.q_lens.size());
    p.heads = c.heads;
    p.kv_heads = c.kv_heads;
    p.head_dim = c.head_dim;
    p.max_seqlen_q = *std::max_element(c.q_lens.begin(), c.q_lens.end());
    p.max_seqlen_kv = *std::max_element(c.kv_lens.begin(), c.kv_lens.end());
    p.tokens_q = std::accumulate(c.q_lens.begin(), c.q_lens.end(), std::int64_t{0});
    p.tokens_kv = std::accumulate(c.kv_lens.begin(), c.kv_lens.end(), std::int64_t{0});
    p.scale = 1 / std::sqrt(static_cast<double>(c.head_dim));
    p.want_lse = true;
    const std::int64_t row = p.heads * p.head_dim, kv_row = p.kv_heads * p.head_dim;
    p.q = p.o = {c.packed ? 0 : p.max_seqlen_q * row, row, p.head_dim};
    p.k = p.v = {c.packed ? 0 : p.max_seqlen_kv * kv_row, kv_row, p.head_dim};
    d.cu_q.assign(1, 0);
    d.cu_k.assign(1, 0);
    for (int n : c.q_lens) d.cu_q.push_back(d.cu_q.back() + n);
    for (int n : c.kv_lens) d.cu_k.push_back(d.cu_k.back() + n);

    emulator::Random random(data_seed);
    const auto fill = [&](std::vector<std::uint16_t>& t, std::int64_t n) {
        t.resize(static_cast<std::size_t>(n));
        for (std::uint16_t& x : t) x = c.f16 ? emulator::to_f16(normal(random)) : emulator::to_bf16(normal(random));
    };
    fill(d.q, p.tokens_q * row);
    fill(d.k, p.tokens_kv * kv_row);
    fill(d.v, p.tokens_kv * kv_row);
    d.o.resize(d.q.size());
    d.expected_o.resize(d.q.size());
    d.lse.resize(static_cast<std::size_t>(p.tokens_q * p.heads));
    d.expected_lse.resize(d.lse.size());
    if (auto r = oracle::attention(p, d.tensors(d.expected_o, d.expected_lse)); !r) throw std::runtime_error(r.error().text());
    DeviceInfo device;
    device.num_sms = c.blocks;
    d.plan = c.variant < 0 ? planner::choose(p, device) : planner::plan_variant(p, device, c.variant);
    if (!d.plan) throw std::runtime_error(d.plan.error().text());
    d.plan->backend = Backend::emulated;
}

Workload::~Workload() = default;

std::string Workload::kernel_name() const { return data_->plan->kernel; }

Outcome Workload::run(const emulator::Options& options, const Runner& runner) {
    Data& d = *data_;
    std::fill(d.o.begin(), d.o.end(), kUnwritten);
    std::fill(d.lse.begin(), d.lse.end(), std::nanf(""));
    Result<planner::LaunchSpec> spec = planner::make_launch(*d.plan, d.tensors(d.o, d.lse));
    if (!spec) return {"error", spec.error().text(), 0};
    Result<emulator::Report> report = runner(*spec, options);
    if (!report) return {"error", report.error().text(), 0};
    if (!report->faults.empty()) return {report->faults[0].kind, report->faults[0].text, report->steps};
    for (std::size_t i = 0; i < d.lse.size(); ++i) {
        const float got = d.lse[i], want = d.expected_lse[i];
        if (!(got == want || std::fabs(got - want) < 2e-4f)) return {"wrong", fmt::format("lse[{}] is {}, the oracle's {}", i, got, want), report->steps};
    }
    for (std::size_t i = 0; i < d.o.size(); ++i) {
        const float got = d.value(d.o[i]), want = d.value(d.expected_o[i]);
        if (!(std::fabs(got - want) <= 4e-3f + 1.5e-2f * std::fabs(want))) {
            const std::size_t row = static_cast<std::size_t>(d.problem.heads * d.problem.head_dim);
            return {"wrong", fmt::format("o[token {}, element {}] is {}, the oracle's {}", i / row, i % row, got, want), report->steps};
        }
    }
    return {"clean", "", report->steps};
}

std::vector<Case> family_cases() {
    std::vector<Case> cases;
    const std::vector<KernelConfig>& table = planner::kernel_table();
    for (std::size_t i = 0; i < table.size(); ++i) {
        const KernelConfig& k = table[i];
        Case c;
        c.name = planner::kernel_name(k);
        c.variant = static_cast<int>(i);
        // Every second kernel of a class with columns that TMA pads.
        c.head_dim = i % 4 < 2 ? k.head_dim : k.head_dim - 8;
        c.f16 = k.elem == Elem::f16;
        c.causal = k.mask == Mask::causal;
        c.packed = k.packed;
        c.blocks = 2;
        const int tile_m = 64 * k.consumers, long_kv = (3 * k.stages + 1) * k.tile_n - 5;
        if (k.packed) {
            c.heads = 2;
            c.q_lens = {tile_m + 3, 0, 1, 65};
            c.kv_lens = {long_kv, 17, 2, k.tile_n + 1};
            if (c.causal) c.q_lens[3] = k.tile_n + 40;  // rows that see no key
        } else {
            c.heads = 2;
            c.q_lens.assign(1, 2 * tile_m - 7);
            c.kv_lens.assign(1, long_kv);
        }
        cases.push_back(c);
    }
    return cases;
}

}  // namespace hopfill::testing
