// A job takes job_us, and step_us for each of its KV blocks; a multiprocessor does its jobs one after the other; the whole takes no less time than
// device memory needs to move q, k, v and o once. bench/fit_cost.py finds the numbers from bench/results and bench/limits (those of e4m3
// from bench/limits alone); some are then moved by up to 4%, so that no point is off by more than a tenth and close choices are the better one.
#include "plan/cost_model.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <vector>

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

// Of split jobs: what a part takes beyond a job, and for each of its job's parts, of which the last makes the sum; the greatest number of parts; what
// they must gain of a launch's time.
constexpr double kPartUs = 4.5;
constexpr double kPartOfUs = 0.5;  // at hd128; twice as much in e4m3 where V is transposed once
constexpr int kMostParts = 16;
constexpr double kLeastGain = 0.016;
// With a mask: what they must gain of what the jobs take; waves of jobs beyond which the longest is no longer than the rest together; how long before
// a part's end, beyond two steps, the next job has been asked for; a step of such short launches as a share of others': at higher clocks, but in e4m3
// of V that has just been read for the first time.
constexpr double kLeastMaskedGain = 0.08;
constexpr int kMostSplitWaves = 3;
constexpr double kPartAheadUs = 5.0;
constexpr double kShortStep = 0.9, kShortStepFp8 = 1.1;

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
    {Family::prefill, 64, 128, 2, 0.85, 1.150, 0.980},
    {Family::prefill, 64, 128, 3, 1.18, 1.390, 0.992},
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

// Whether a job begins where the one before has ended, not beside that.
bool starts_anew(const KernelConfig& c) { return c.splits && is_fp8(c.family) && c.consumers == 2 && c.head_dim <= 128; }

// A job's beginning and end.
double job_us_of(const KernelConfig& c, const TileCost& cost) { return cost.job_us + (starts_anew(c) ? 1.0 : 0.0); }

// What one of so many parts takes beyond a job of as many blocks.
double part_end_us(const KernelConfig& c, int parts) {
    return kPartUs + kPartOfUs * (is_fp8(c.family) && !starts_anew(c) ? 2 : 1) * c.head_dim / 128 * parts;
}

// What split_of() found, and what the jobs then take.
struct SplitChoice {
    Split split;
    double us = 0;
};

// All jobs of a launch without a mask take as long, so the last wave leaves multiprocessors idle: 4,096 jobs on 132 take 32 waves where 31.03 would
// do. So the jobs of a last wave that is at most half full are split, in as many parts as end soonest, all in one wave: in several, the records of
// all multiprocessors at once cost what is gained (68 of 2,048 jobs in 5 parts each: -2 to +1%; 100 of 1,024: -6 to +1%; 56 of 1,376 in 2: +3 to
// +5%). hd64 gains where there is no whole wave.
SplitChoice split_last_wave(const KernelConfig& c, const TileCost& cost, const AttentionProblem& p, int sms) {
    const std::int64_t rows = geometry(c).tile_m, jobs = (p.max_seqlen_q + rows - 1) / rows * p.heads * p.batch;
    if ((c.head_dim == 64 || starts_anew(c)) && jobs >= sms) return {};
    const int blocks = job_range(c, 0, static_cast<i32>(p.max_seqlen_q), static_cast<i32>(p.max_seqlen_kv)).end;
    const double whole = job_us_of(c, cost) + step_us_of(c, cost) * blocks;
    Split best{jobs % sms, 1};
    double least = whole;
    const int most = static_cast<int>(std::min<std::int64_t>({kMostParts, blocks, sms / std::max<std::int64_t>(best.jobs, 1)}));
    for (int parts = 2; parts <= most; ++parts) {
        const double us = job_us_of(c, cost) + step_us_of(c, cost) * ((blocks + parts - 1) / parts) + part_end_us(c, parts);
        if (us >= least) continue;
        least = us;
        best.parts = parts;
    }
    const double all = static_cast<double>((jobs + sms - 1) / sms) * whole;
    if (best.jobs == 0 || whole - least < kLeastGain * all) return {};
    return {best, std::floor(static_cast<double>(jobs) / sms) * whole + least};
}

// A job, and how long before its end its multiprocessor has asked for the next one.
struct TimedJob {
    double us, ahead;
};

// How long multiprocessors take for jobs that they draw in their order, the first ones at once.
double makespan_us(const std::vector<TimedJob>& jobs, int sms) {
    struct Busy {
        double asks, ends;
    };
    const auto later = [](const Busy& a, const Busy& b) { return a.asks > b.asks; };
    std::vector<Busy> busy;
    double last = 0;
    for (const TimedJob& job : jobs) {
        double starts = 0, drawn = 0;
        if (std::ssize(busy) == sms) {
            std::ranges::pop_heap(busy, later);
            starts = busy.back().ends;
            drawn = busy.back().asks;
            busy.pop_back();
        }
        const double ends = starts + job.us;
        busy.push_back({std::max(drawn, ends - job.ahead), ends});
        std::ranges::push_heap(busy, later);
        last = std::max(last, ends);
    }
    return last;
}

// With a mask jobs differ, and the longest take up to twice the mean: where there are few, those run while most multiprocessors have none left. So
// the longest are split, all in as many parts, and as many of them as end soonest (some numbers are tried, an eighth of the tiles apart;
// bench/limits/README.md says how near that comes).
SplitChoice split_longest(const KernelConfig& c, const TileCost& cost, const AttentionProblem& p, int sms) {
    const std::int64_t rows = geometry(c).tile_m, levels = (p.max_seqlen_q + rows - 1) / rows, width = p.heads * p.batch;
    if (levels * width > std::int64_t{kMostSplitWaves} * sms) return {};
    const double step_us = (is_fp8(c.family) ? kShortStepFp8 : kShortStep) * step_us_of(c, cost), job_us = job_us_of(c, cost);
    // Of the tiles of one head, the longest first.
    std::vector<int> blocks;
    std::vector<TimedJob> whole;
    double all = 0;
    for (std::int64_t level = 0; level < levels; ++level) {
        const i32 row0 = static_cast<i32>((levels - 1 - level) * rows);
        blocks.push_back(std::max(1, job_range(c, row0, static_cast<i32>(p.max_seqlen_q), static_cast<i32>(p.max_seqlen_kv)).end));
        whole.push_back({job_us + step_us * blocks.back(), 2 * step_us});
        all += whole.back().us * static_cast<double>(width);
    }
    const auto part_of = [&](std::size_t level, int part, int parts) {
        const int steps = (part + 1) * blocks[level] / parts - part * blocks[level] / parts;
        return TimedJob{job_us + step_us * steps + part_end_us(c, parts), 2 * step_us + kPartAheadUs};
    };
    std::vector<TimedJob> jobs;
    const auto add_level = [&](const TimedJob& job) { jobs.insert(jobs.end(), static_cast<std::size_t>(width), job); };
    const auto add_whole = [&](std::size_t first) {
        for (std::size_t level = first; level < whole.size(); ++level) add_level(whole[level]);
    };
    add_whole(0);
    const double unsplit = makespan_us(jobs, sms);
    SplitChoice best{{}, unsplit};
    // (Where whole jobs fill half a wave, more than four parts have never been the best; and this takes its time.)
    const int most_parts = std::min(2 * levels * width > sms ? 4 : kMostParts, blocks[0]);
    for (int parts = 2; parts <= most_parts; ++parts) {
        const double longest_part = part_of(0, parts - 1, parts).us;
        if (longest_part >= best.us) continue;
        std::size_t most = 1, fair = 1;  // behind the latter a whole job is no longer than a part
        while (most < whole.size() && blocks[most] >= parts) ++most;
        while (fair < most && whole[fair].us > longest_part) ++fair;
        double work = all;
        jobs.clear();
        for (std::size_t level = 0; level < most; ++level) {
            work -= whole[level].us * static_cast<double>(width);
            for (int part = 0; part < parts; ++part) {
                add_level(part_of(level, part, parts));
                work += jobs.back().us * static_cast<double>(width);
            }
            const std::size_t split = level + 1;
            if (split != most && split != fair && split % (1 + whole.size() / 8) != 0) continue;
            // No less than the longest, and than what there is to do.
            if ((split < whole.size() && whole[split].us >= best.us) || work / sms >= best.us) continue;
            const auto parts_end = jobs.size();
            add_whole(split);
            const double us = makespan_us(jobs, sms);
            jobs.resize(parts_end);
            if (us < best.us) best = {{static_cast<std::int64_t>(split) * width, parts}, us};
        }
    }
    if (unsplit - best.us < kLeastMaskedGain * unsplit) return {};
    // These times are compared with the folded family's, which are 10% too short in e4m3, and right in 16 bits, where the splitting kernel's are 7%
    // too long at hd64; else the better known kernel is preferred.
    best.us *= is_fp8(c.family) ? 0.91 : c.head_dim == 64 ? 1.0 : 1.07;
    return best;
}

SplitChoice find_split(const KernelConfig& c, const AttentionProblem& p, const DeviceInfo& device) {
    const TileCost* cost = c.splits ? find_cost(c) : nullptr;
    if (cost == nullptr || p.packed || p.batch <= 0 || p.heads <= 0 || p.max_seqlen_q <= 0 || device.num_sms <= 0) return {};
    return c.mask == Mask::causal ? split_longest(c, *cost, p, device.num_sms) : split_last_wave(c, *cost, p, device.num_sms);
}

}  // namespace

Split split_of(const KernelConfig& c, const AttentionProblem& p, const DeviceInfo& device) { return find_split(c, p, device).split; }
double modelled_us(const KernelConfig& c, const AttentionProblem& p, const DeviceInfo& device) { return model(c, p, device).us; }

std::int64_t splittable_jobs(const KernelConfig& c, const AttentionProblem& p, int parts) {
    const i32 rows = geometry(c).tile_m, q_len = static_cast<i32>(p.max_seqlen_q);
    std::int64_t tiles = 0;
    for (i32 row = 0; row < q_len; row += rows) tiles += job_range(c, row, q_len, static_cast<i32>(p.max_seqlen_kv)).end >= parts ? 1 : 0;
    return tiles * p.heads * p.batch;
}

Modelled model(const KernelConfig& c, const AttentionProblem& p, const DeviceInfo& device) {
    if (p.batch <= 0 || p.heads <= 0 || p.tokens_q <= 0 || device.num_sms <= 0) return {};
    const TileCost* cost = find_cost(c);
    if (cost == nullptr) return {};
    const Geometry g = geometry(c);
    const std::int64_t q_len = std::clamp<std::int64_t>((p.tokens_q + p.batch - 1) / p.batch, 1, std::max<std::int64_t>(1, p.max_seqlen_q));
    const std::int64_t kv_len = std::min((p.tokens_kv + p.batch - 1) / p.batch, p.max_seqlen_kv);
    const double step_us = step_us_of(c, *cost);
    const std::int64_t tiles = (q_len + g.tile_m - 1) / g.tile_m;
    // Tiles of a sequence: the shortest job, the longest, and all together. Beyond 4,096 tiles every so many stand for their neighbours.
    double shortest = 0, longest = 0, all = 0;
    const std::int64_t stride = 1 + tiles / 4096;
    for (std::int64_t t = 0; t < tiles; t += stride) {
        const KvRange range = job_range(c, static_cast<i32>(t) * job_stride(c), static_cast<i32>(q_len), static_cast<i32>(kv_len));
        const double us = cost->job_us + step_us * std::max(1, range.end);
        shortest = t == 0 ? us : std::min(shortest, us);
        longest = std::max(longest, us);
        all += us * static_cast<double>(std::min(stride, tiles - t));
    }
    const double sequences = static_cast<double>(p.batch) * static_cast<double>(p.heads);
    const double jobs = static_cast<double>(tiles) * sequences, sms = device.num_sms;
    double compute = longest;
    if (jobs > sms) {
        // Jobs of one length come in waves. Of several, longest first: the last to end are short, and half of one is lost on average.
        compute = p.causal ? std::max(longest, all * sequences / sms + shortest / 2) : std::ceil(jobs / sms) * longest;
    }
    const SplitChoice choice = find_split(c, p, device);
    if (choice.split.jobs > 0) compute = choice.us;
    const double kv_elements = 2.0 * static_cast<double>(p.tokens_kv * p.kv_heads * p.head_dim);
    const double bytes = static_cast<double>(p.head_dim) * static_cast<double>(p.tokens_q * p.heads) * (elem_bytes(c.elem) + elem_bytes(c.out)) +
                         kv_elements * elem_bytes(loaded_elem(c));
    const double share = static_cast<double>(device.num_sms) / kH100Multiprocessors;
    double copying = 0;
    if (scratch_bytes(c, p, {}) > 0)
        copying = c.v_turned ? kTurningUs + kv_elements / (kTurningBytesPerUs * share)
                             : kWideningLaunchUs + kv_elements * (1 + elem_bytes(c.elem)) / (kWideningBytesPerUs * share);
    return {kLaunchUs + soft_max(compute, bytes / (kBytesPerUs * share)) + copying, choice.split};
}

}  // namespace hopfill::planner
