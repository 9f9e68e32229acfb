// A job takes job_us, and step_us for each of its KV blocks; a multiprocessor does its jobs one after the other; the whole takes no less time than
// device memory needs to move q, k, v and o once. bench/fit_cost.py finds the numbers from bench/results and bench/limits (those of e4m3
// from bench/limits alone); some are then moved by up to 4%, so that no point is off by more than a tenth and close choices are the better one.
#include "plan/cost_model.h"

#include <algorithm>
#include <cmath>

#include "plan/geometry.h"
#include "plan/launch.h"
#include "plan/split.h"

namespace hopfill::planner {
namespace {

constexpr double kLaunchUs = 1.77;
constexpr double kBytesPerUs = 3.45e6;  // of an H200; an H100 has 2.70e6, which changes no choice
constexpr int kH100Multiprocessors = 132;
// Copies of K and V in 16 bits: a launch of its own, and what it moves. (16k tokens of 2,048 channels: modelled 83 us; the launch alone takes 54 on
// an H200, but calls on copies 60 to 120 more than ones on BF16, which find more of K and V in L2.)
constexpr double kWideningLaunchUs = 2.5;
constexpr double kWideningBytesPerUs = 2.50e6;
// V transposed beside the jobs: with the factors `turned` below what that costs them (bench/limits/h200-tiles.jsonl; 16k tokens of 2,048 channels
// 11 us). The first blocks wait for it, the others share memory with it.
constexpr double kTurningUs = 3.0;
constexpr double kTurningBytesPerUs = 8.0e6;

// Of split jobs: what a job's last part takes for each of them; what their outputs cost, written and read; the greatest number; what they must gain
// of a launch's time.
constexpr double kPartUs = 1.5;
constexpr double kPartBytesPerUs = 4.0e6;
constexpr int kMostParts = 16;
constexpr double kLeastGain = 0.016;

struct TileCost {
    Family family;
    i32 head_dim;
    i32 tile_n;
    i32 consumers;
    double job_us;       // beyond its steps: the first Q K^T and softmax, the last P V, the store
    double step_us;      // a KV block
    double full_factor;  // of step_us, without a mask
    double turned = 1;   // of step_us, with KernelConfig::v_turned
};

constexpr TileCost kCosts[] = {
    {Family::prefill_short, 64, 64, 2, 0.85, 0.420, 0.970},  // interpolated
    {Family::prefill_short, 128, 64, 2, 1.10, 0.560, 0.970},
    // Not of the fit, which has few points where one wave does: from the table of prefill_folded/SCHEDULE.md and the headline.
    {Family::prefill_folded, 64, 128, 2, 1.10, 0.850, 1.000},
    {Family::prefill_folded, 128, 64, 2, 0.73, 0.720, 1.000},
    {Family::prefill_folded, 128, 128, 2, 1.25, 1.205, 1.000},
    {Family::prefill_folded, 256, 64, 2, 2.45, 1.130, 1.000},
    {Family::prefill, 64, 128, 2, 0.90, 1.150, 0.980},
    {Family::prefill, 64, 128, 3, 1.27, 1.390, 0.992},
    {Family::prefill, 96, 128, 2, 1.10, 1.290, 1.000},  // interpolated
    {Family::prefill, 128, 128, 2, 1.12, 1.440, 1.008},
    {Family::prefill, 192, 96, 2, 2.40, 1.700, 1.010},  // interpolated
    {Family::prefill, 256, 64, 2, 3.05, 1.460, 0.965},
    {Family::prefill_fp8, 64, 128, 2, 0.88, 0.920, 0.972},
    {Family::prefill_fp8, 64, 192, 3, 1.05, 1.720, 1.045},
    {Family::prefill_fp8, 128, 128, 2, 1.17, 1.173, 1.050},
    {Family::prefill_fp8, 128, 128, 3, 1.12, 1.685, 1.003, 0.975},
    {Family::prefill_fp8, 256, 128, 2, 1.48, 2.134, 0.970, 0.900},
    // As of prefill_folded: so that prompts of 128, 256 and 512 tokens take what they were measured to, as shares of what prefill_fp8 takes.
    {Family::prefill_fp8_folded, 64, 128, 2, 1.21, 0.675, 1.000},
    {Family::prefill_fp8_folded, 128, 128, 2, 1.61, 0.935, 1.000},
    // From four points each.
    {Family::prefill_mixed, 64, 128, 2, 1.00, 2.100, 0.970},
    {Family::prefill_mixed, 128, 128, 2, 1.80, 2.800, 1.000},
};

const TileCost* find_cost(const KernelConfig& c) {
    const Family family = is_main(c.family) ? Family::prefill : c.family;
    const auto at = std::find_if(std::begin(kCosts), std::end(kCosts), [&](const TileCost& t) {
        return t.family == family && t.head_dim == c.head_dim && t.tile_n == c.tile_n && t.consumers == c.consumers;
    });
    return at == std::end(kCosts) ? nullptr : at;
}

// Of two bounds of which neither is sharp near the other.
double soft_max(double a, double b) {
    const double large = std::max(a, b), small = std::min(a, b);
    return large <= 0 ? 0 : large * std::pow(1 + std::pow(small / large, 8), 1.0 / 8);
}

double step_us_of(const KernelConfig& c, const TileCost& cost) {
    return cost.step_us * (c.mask == Mask::causal ? 1 : cost.full_factor) * (c.v_turned ? cost.turned : 1);
}

// Of split jobs, whose parts are one wave: a part, and the last one's sum of them all.
double tail_us(const KernelConfig& c, const TileCost& cost, int blocks, const Split& split) {
    const double steps = std::ceil(static_cast<double>(blocks) / split.parts);
    const double bytes = 2.0 * static_cast<double>(split.jobs) * split.parts * 4 * c.consumers * part_record_bytes(c);
    return cost.job_us + step_us_of(c, cost) * steps + kPartUs * split.parts + bytes / kPartBytesPerUs;
}

}  // namespace

// All jobs of a launch without a mask take as long, so the last wave leaves multiprocessors idle: 4,096 jobs on 132 take 32 waves where 31.03 would
// do. So the jobs of a last wave that is at most half full are split, in as many parts as end soonest, all in one wave: in several, the records of
// all multiprocessors at once cost what is gained (68 of 2,048 jobs in 5 parts each: -2 to +1%; 100 of 1,024: -6 to +1%; 56 of 1,376 in 2: +3 to
// +5%).
Split split_of(const KernelConfig& c, const AttentionProblem& p, const DeviceInfo& device) {
    const TileCost* cost = c.splits ? find_cost(c) : nullptr;
    if (cost == nullptr || p.packed || p.batch <= 0 || p.heads <= 0 || p.max_seqlen_q <= 0 || device.num_sms <= 0) return {};
    const std::int64_t rows = geometry(c).tile_m, jobs = (p.max_seqlen_q + rows - 1) / rows * p.heads * p.batch;
    const int blocks = job_range(c, 0, static_cast<i32>(p.max_seqlen_q), static_cast<i32>(p.max_seqlen_kv)).end;
    const double whole = cost->job_us + step_us_of(c, *cost) * blocks;
    Split best{jobs % device.num_sms, 1};
    double least = whole;
    const int most = static_cast<int>(std::min<std::int64_t>({kMostParts, blocks, device.num_sms / std::max<std::int64_t>(best.jobs, 1)}));
    for (int parts = 2; parts <= most; ++parts) {
        const double us = tail_us(c, *cost, blocks, {best.jobs, parts});
        if (us >= least) continue;
        least = us;
        best.parts = parts;
    }
    const double all = static_cast<double>((jobs + device.num_sms - 1) / device.num_sms) * whole;
    return best.jobs == 0 || whole - least < kLeastGain * all ? Split{} : best;
}

double modelled_us(const KernelConfig& c, const AttentionProblem& p, const DeviceInfo& device) {
    if (p.batch <= 0 || p.heads <= 0 || p.tokens_q <= 0 || device.num_sms <= 0) return 0;
    const TileCost* cost = find_cost(c);
    if (cost == nullptr) return 0;
    const Geometry g = geometry(c);
    const std::int64_t q_len = std::clamp<std::int64_t>((p.tokens_q + p.batch - 1) / p.batch, 1, std::max<std::int64_t>(1, p.max_seqlen_q));
    const std::int64_t kv_len = std::min((p.tokens_kv + p.batch - 1) / p.batch, p.max_seqlen_kv);
    const double step_us = step_us_of(c, *cost);
    const std::int64_t tiles = (q_len + g.tile_m - 1) / g.tile_m;
    // Tiles of a sequence: the shortest job, the longest, and all together. Beyond 4,096 tiles every so many stand for their neighbours.
    double shortest = 0, longest = 0, all = 0;
    int blocks = 1;  // of the longest
    const std::int64_t stride = 1 + tiles / 4096;
    for (std::int64_t t = 0; t < tiles; t += stride) {
        const KvRange range = job_range(c, static_cast<i32>(t) * job_stride(c), static_cast<i32>(q_len), static_cast<i32>(kv_len));
        const double us = cost->job_us + step_us * std::max(1, range.end);
        shortest = t == 0 ? us : std::min(shortest, us);
        longest = std::max(longest, us);
        blocks = std::max(blocks, range.end);
        all += us * static_cast<double>(std::min(stride, tiles - t));
    }
    const double sequences = static_cast<double>(p.batch) * static_cast<double>(p.heads);
    const double jobs = static_cast<double>(tiles) * sequences, sms = device.num_sms;
    double compute = longest;
    if (jobs > sms) {
        // Jobs of one length come in waves. Of several, longest first: the last to end are short, and half of one is lost on average.
        compute = p.causal ? std::max(longest, all * sequences / sms + shortest / 2) : std::ceil(jobs / sms) * longest;
    }
    if (const Split split = split_of(c, p, device); split.jobs > 0)
        compute = std::floor(jobs / sms) * longest + tail_us(c, *cost, blocks, split);
    const double kv_elements = 2.0 * static_cast<double>(p.tokens_kv * p.kv_heads * p.head_dim);
    const double bytes = static_cast<double>(p.head_dim) * static_cast<double>(p.tokens_q * p.heads) * (elem_bytes(c.elem) + elem_bytes(c.out)) +
                         kv_elements * elem_bytes(loaded_elem(c));
    const double share = static_cast<double>(device.num_sms) / kH100Multiprocessors;
    double copying = 0;
    if (scratch_bytes(c, p, {}) > 0)
        copying = c.v_turned ? kTurningUs + kv_elements / (kTurningBytesPerUs * share)
                             : kWideningLaunchUs + kv_elements * (1 + elem_bytes(c.elem)) / (kWideningBytesPerUs * share);
    return kLaunchUs + soft_max(compute, bytes / (kBytesPerUs * share)) + copying;
}

}  // namespace hopfill::planner
