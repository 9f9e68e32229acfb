// Which jobs blocks share, and in how many parts.
#include <gtest/gtest.h>

#include <algorithm>
#include <tuple>

#include "plan/launch.h"
#include "problems.h"

namespace hopfill {
namespace {

using testing::packed;
using testing::problem;

// What problems are changed by.
void same(AttentionProblem&) {}
void fp8(AttentionProblem& p) { p.dtype = p.kv_dtype = DType::e4m3, p.out_dtype = DType::bf16; }

// By what the plans say, a plan that splits ends before the same kernel without.
void expect_sooner_than_whole(const Plan& plan) {
    KernelConfig whole = planner::kernel_at(plan.variant);
    whole.splits = false;
    for (int i = 0; i < planner::variants(); ++i) {
        if (planner::kernel_at(i) != whole) continue;
        const Result<Plan> other = planner::plan_variant(plan.problem, {}, i);
        EXPECT_TRUE(other && other->modelled_us > plan.modelled_us) << plan.kernel;
    }
}

// Of jobs that do not fill their last wave the rest are split, where that ends sooner.
TEST(Split, JobsOfALastWaveAreSplit) {
    const auto plan_of = [](std::int64_t batch, std::int64_t seq, std::int64_t dim, std::int64_t heads, auto change) {
        AttentionProblem p = problem(batch, seq, dim, false, heads);
        change(p);
        const Result<Plan> plan = planner::choose(p, {});
        EXPECT_TRUE(plan) << plan.error().text();
        return plan ? *plan : Plan{};
    };
    const auto split = [](const Plan& plan) {
        const KernelConfig& c = planner::kernel_at(plan.variant);
        EXPECT_EQ(c.splits, plan.split_jobs > 0) << plan.kernel;
        EXPECT_EQ(c.splits, plan.parts > 1) << plan.kernel;
        if (!c.splits) return false;
        EXPECT_EQ(plan.split_jobs, plan.jobs % DeviceInfo{}.num_sms);
        EXPECT_LE(plan.split_jobs * plan.parts, DeviceInfo{}.num_sms) << "one wave";
        EXPECT_LE(plan.parts, (plan.problem.max_seqlen_kv + c.tile_n - 1) / c.tile_n) << "a block each, at least";
        const std::int64_t records = plan.split_jobs * plan.parts * plan.tile_m * (2 + c.head_dim) * 4;
        EXPECT_EQ(plan.scratch_bytes, records + (c.v_turned ? plan.problem.tokens_kv * plan.problem.kv_heads * plan.problem.head_dim : 0));
        expect_sooner_than_whole(plan);
        return true;
    };
    for (const std::int64_t dim : {128, 256}) {
        // 4,096 jobs are 31 waves of 132 and four jobs.
        EXPECT_TRUE(split(plan_of(1, 16384, dim, 32, same)));
        EXPECT_TRUE(split(plan_of(1, 16384, dim, dim == 128 ? 16 : 32, fp8)));
        EXPECT_FALSE(split(plan_of(1, 16384, dim, 33, same))) << "a full last wave";
        EXPECT_FALSE(split(plan_of(16, 256, dim, 32, same))) << "short jobs";
        EXPECT_FALSE(split(plan_of(1, 16384, dim, 32, [](auto& p) { p.causal = true; })));
        EXPECT_FALSE(split(plan_of(1, 16384, dim, 32, [](auto& p) { p = packed(p); })));
        EXPECT_FALSE(split(plan_of(1, 16384, dim, 32, [](auto& p) { p.batch_invariant = true; })));
        // To the byte, and with none at all.
        const std::int64_t needed = plan_of(1, 16384, dim, 32, same).scratch_bytes;
        EXPECT_TRUE(split(plan_of(1, 16384, dim, 32, [&](auto& p) { p.max_scratch_bytes = needed; })));
        EXPECT_FALSE(split(plan_of(1, 16384, dim, 32, [&](auto& p) { p.max_scratch_bytes = needed - 1; })));
        for (const Plan& plan : {plan_of(1, 16384, dim, 32, same), plan_of(1, 16384, dim, 32, fp8)}) {
            const Result<Plan> instead = planner::replace_without_scratch(plan, {});
            ASSERT_TRUE(instead) << instead.error().text();
            EXPECT_EQ(instead->scratch_bytes, 0);
            EXPECT_FALSE(split(*instead));
        }
    }
}

// Whatever the number of multiprocessors: parts fit into one wave, have a block of keys each, and belong to jobs of the last wave.
TEST(Split, SplitJobsAreOfOneWaveOnAnyDevice) {
    int splits = 0;
    for (const int sms : {1, 2, 78, 114, 132, 1000})
        for (const std::int64_t seq : {1, 64, 1000, 4096, 30000})
            for (const std::int64_t seq_kv : {0, 1, 200, 4096, 30000})
                for (const std::int64_t heads : {1, 8, 32}) {
                    AttentionProblem p = problem(2, seq, 128, false, heads);
                    p.max_seqlen_kv = seq_kv;
                    p.tokens_kv = 2 * seq_kv;
                    testing::fill_strides(p);
                    DeviceInfo device;
                    device.num_sms = sms;
                    for (int variant = 0; variant < planner::variants(); ++variant) {
                        const KernelConfig& c = planner::kernel_at(variant);
                        if (c.mask == Mask::causal) continue;
                        const planner::Split split = planner::split_of(c, p, device);
                        if (split.jobs == 0) {
                            EXPECT_EQ(split.parts, 1);
                            continue;
                        }
                        ++splits;
                        EXPECT_TRUE(c.splits);
                        EXPECT_GE(split.parts, 2);
                        EXPECT_LE(split.jobs * split.parts, sms);
                        EXPECT_LE(split.parts, std::max<std::int64_t>(1, (seq_kv + c.tile_n - 1) / c.tile_n));
                    }
                }
    EXPECT_GT(splits, 100);
}

// With a mask, of few heads: the longest tiles of all heads together.
TEST(Split, LongestJobsOfFewHeadsAreSplit) {
    const auto plan_of = [](std::int64_t seq, std::int64_t seq_kv, std::int64_t dim, std::int64_t heads, auto change) {
        AttentionProblem p = problem(1, seq, dim, true, heads);
        p.max_seqlen_kv = p.tokens_kv = seq_kv;
        p.kv_heads = 1;
        change(p);
        testing::fill_strides(p);
        const Result<Plan> plan = planner::choose(p, {});
        EXPECT_TRUE(plan) << plan.error().text();
        return plan ? *plan : Plan{};
    };
    const auto split = [](const Plan& plan) {
        const KernelConfig& c = planner::kernel_at(plan.variant);
        EXPECT_EQ(c.splits, plan.split_jobs > 0) << plan.kernel;
        if (!c.splits) return false;
        EXPECT_EQ(plan.heads_per_group, plan.problem.heads);
        EXPECT_EQ(plan.split_jobs % plan.problem.heads, 0);
        EXPECT_GE(plan.parts, 2);
        EXPECT_LE(plan.split_jobs, planner::splittable_jobs(c, plan.problem, plan.parts));
        EXPECT_LE(plan.split_jobs, plan.jobs);
        expect_sooner_than_whole(plan);
        return true;
    };
    for (const std::int64_t dim : {64, 128, 256})
        for (const auto& [seq, seq_kv, heads] : {std::tuple{4096, 4096, 4}, std::tuple{8192, 8192, 2}, std::tuple{512, 16384, 8},
                                                std::tuple{16, 8192, 8}}) {
            EXPECT_TRUE(split(plan_of(seq, seq_kv, dim, heads, same))) << seq << " of " << seq_kv << ", head_dim " << dim;
            EXPECT_FALSE(split(plan_of(seq, seq_kv, dim, heads, [](auto& p) { p.batch_invariant = true; })));
            EXPECT_FALSE(split(plan_of(seq, seq_kv, dim, heads, [](auto& p) { p.max_scratch_bytes = 0; })));
            EXPECT_FALSE(split(plan_of(seq, seq_kv, dim, heads, [](auto& p) { p = packed(p); })));
            // (In e4m3 at hd64 folded jobs seem to end as soon.)
            const bool in_fp8 = split(plan_of(seq, seq_kv, dim, heads, fp8));
            EXPECT_TRUE(in_fp8 || (dim == 64 && seq == seq_kv)) << seq << " of " << seq_kv << ", head_dim " << dim;
        }
    for (const std::int64_t dim : {64, 128, 256}) {
        EXPECT_FALSE(split(plan_of(128, 128, dim, 8, same))) << "short";
        EXPECT_FALSE(split(plan_of(4096, 4096, dim, 32, same))) << "enough jobs";
        EXPECT_FALSE(split(plan_of(512, 512, dim, 8, same)));
    }
}

// Jobs with a key block for each part: with a mask the longest.
TEST(Split, SplittableJobsHaveABlockForEachPart) {
    for (const bool causal : {false, true})
        for (const std::int64_t seq : {1, 130, 1000})
            for (const std::int64_t seq_kv : {0, 1, 300, 1000}) {
                AttentionProblem p = problem(1, seq, 128, causal, 3);
                p.max_seqlen_kv = p.tokens_kv = seq_kv;
                testing::fill_strides(p);
                const KernelConfig& of = *std::ranges::find_if(planner::kernel_table(), [&](const KernelConfig& k) {
                    return k.splits && k.head_dim == 128 && !is_fp8(k.family) && (k.mask == Mask::causal) == causal;
                });
                std::int64_t before = (seq + 127) / 128 * 3;
                for (int parts = 1; parts <= 10; ++parts) {
                    const std::int64_t jobs = planner::splittable_jobs(of, p, parts);
                    EXPECT_LE(jobs, before);
                    EXPECT_EQ(jobs % 3, 0);
                    EXPECT_EQ(jobs > 0, (seq_kv + 127) / 128 >= parts) << "the last tile sees all keys";
                    before = jobs;
                }
            }
}

}  // namespace
}  // namespace hopfill
