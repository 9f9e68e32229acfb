// Which kernel a problem gets.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "plan/launch.h"
#include "problems.h"

namespace hopfill {
namespace {

using ::testing::HasSubstr;
using testing::packed;
using testing::problem;
using testing::transpose_v;

TEST(Choose, EveryHeadDimensionTypeMaskAndLayoutHasAKernel) {
    for (std::int64_t dim = 8; dim <= 256; dim += 8) {
        for (const DType dtype : {DType::bf16, DType::f16}) {
            for (const bool causal : {false, true}) {
                for (const bool ragged : {false, true}) {
                    AttentionProblem p = problem(3, 777, dim, causal);
                    p.dtype = p.kv_dtype = p.out_dtype = dtype;
                    if (ragged) p = packed(p);
                    const Result<Plan> plan = planner::choose(p, {});
                    ASSERT_TRUE(plan) << plan.error().text();
                    const KernelConfig& c = planner::kernel_at(plan->variant);
                    EXPECT_GE(c.head_dim, dim);
                    EXPECT_EQ(c.packed, ragged);
                    EXPECT_EQ(c.mask == Mask::causal, causal);
                    EXPECT_EQ(c.elem == Elem::f16, dtype == DType::f16);
                    EXPECT_EQ(plan->kernel, planner::kernel_name(c));
                }
            }
        }
    }
}

TEST(Choose, GridsAreBoundedByJobsAndMultiprocessors) {
    for (const int sms : {1, 78, 114, 132}) {
        DeviceInfo device;
        device.num_sms = sms;
        for (const std::int64_t seq : {1, 64, 65, 512, 4096}) {
            for (const bool ragged : {false, true}) {
                const AttentionProblem dense = problem(2, seq, 128);
                const Result<Plan> plan = planner::choose(ragged ? packed(dense) : dense, device);
                ASSERT_TRUE(plan);
                EXPECT_LE(plan->grid, sms);
                EXPECT_LE(plan->grid, plan->jobs);
                EXPECT_GE(plan->grid, 1);
                // Every query row has a job, whatever the ragged lengths are.
                EXPECT_GE(plan->jobs * plan->tile_m, 2 * seq * 32);
            }
        }
    }
}

// With a causal mask: no more than 33 heads (below hd256 of up to seven tiles two waves) and 32 MB of K and V, as measured on an H100, on other GPUs
// their share of the same, and a last group that lacks little; all, where these are few and short. Without a mask: one KV head's.
TEST(Choose, HeadsThatShareL2AreBoundedByTheGpu) {
    const auto heads = [](const AttentionProblem& p, const DeviceInfo& device) { return planner::choose(p, device)->heads_per_group; };
    DeviceInfo h20, small;
    h20.num_sms = 78;
    small.num_sms = 2;
    EXPECT_EQ(heads(problem(32, 512, 128), {}), 64) << "of 66 at most";
    EXPECT_EQ(heads(problem(2, 512, 128), {}), 2 * 32) << "no more than there are";
    EXPECT_EQ(heads(problem(32, 512, 256), {}), 32) << "of 33 at most";
    EXPECT_EQ(heads(problem(4, 256, 128), {}), 4 * 32) << "256 jobs";
    EXPECT_EQ(heads(problem(16, 256, 128), {}), 128) << "of 132 at most; all would be 1,024 jobs";
    EXPECT_EQ(heads(problem(4, 512, 128), {}), 64) << "all have 34 MB of K and V";
    AttentionProblem fp8 = problem(4, 512, 128);
    fp8.dtype = fp8.kv_dtype = DType::e4m3;
    EXPECT_EQ(heads(fp8, {}), 4 * 32) << "17 MB";
    EXPECT_EQ(heads(fp8, h20), 32) << "512 jobs are more than five waves there";
    EXPECT_EQ(heads(problem(4, 256, 256, true, 16), {}), 4 * 16) << "at hd256, too";
    EXPECT_EQ(heads(problem(3, 896, 64), {}), 32) << "seven tiles, 672 jobs: of 37 at most, in three groups that lack none";
    AttentionProblem shared = problem(5, 512, 128);
    shared.kv_heads = 8;
    testing::fill_strides(shared);
    EXPECT_EQ(heads(shared, {}), 5 * 32) << "640 jobs, 10 MB";
    EXPECT_EQ(heads(problem(2, 1024, 64), {}), 32) << "eight tiles: of 33 at most";
    EXPECT_EQ(heads(problem(16, 1024, 128), {}), 32);
    EXPECT_EQ(heads(problem(1, 1024, 128, true, 34), {}), 17) << "34 heads: not 33 and one";
    EXPECT_EQ(heads(problem(3, 1024, 128, true, 43), {}), 26) << "129 heads in five groups that lack one";
    DeviceInfo more;
    more.l2_bytes = 60 << 20;
    EXPECT_EQ(heads(problem(8, 8192, 128, true, 16), more), 8) << "128 heads, nine at most: not 14 nines and two";
    EXPECT_EQ(heads(problem(32, 512, 128), h20), 32) << "of 39 at most";
    EXPECT_EQ(heads(problem(16, 1024, 128), h20), 16) << "of 19 at most";
    EXPECT_EQ(heads(problem(32, 512, 128), small), 1);
    EXPECT_EQ(heads(problem(1, 512, 128, true, 8), {}), 8);
    EXPECT_EQ(heads(problem(1, 16384, 128), {}), 4) << "8 MB a head";
    EXPECT_EQ(heads(problem(1, 1 << 20, 128), {}), 1) << "one head is more than L2 holds";
    DeviceInfo half;
    half.l2_bytes /= 2;
    EXPECT_EQ(heads(problem(1, 16384, 128), half), 2);
    AttentionProblem gqa = problem(1, 16384, 128);
    gqa.kv_heads = 4;
    testing::fill_strides(gqa);
    EXPECT_EQ(heads(gqa, {}), 32) << "8 query heads a KV head";
    gqa.causal = false;
    EXPECT_EQ(heads(gqa, {}), 8) << "one KV head";
    EXPECT_EQ(heads(problem(4, 4096, 128, false), {}), 1);
}

TEST(Choose, NothingToDoIsAnEmptyGrid) {
    for (const AttentionProblem& p : {problem(0, 512, 128), problem(2, 0, 128), packed(problem(0, 0, 128)), packed(problem(2, 0, 64))}) {
        const Result<Plan> plan = planner::choose(p, {});
        ASSERT_TRUE(plan) << plan.error().text();
        EXPECT_EQ(plan->grid, 0);
    }
}

TEST(Choose, BatchInvariantPlansTakeOneKernelWhateverTheBatch) {
    AttentionProblem alone = problem(1, 512, 128), many = problem(64, 512, 128);
    alone.batch_invariant = many.batch_invariant = true;
    const Result<Plan> a = planner::choose(alone, {}), b = planner::choose(many, {});
    ASSERT_TRUE(a && b);
    EXPECT_EQ(a->kernel, b->kernel);
}

TEST(Choose, Fp8HasAKernelForEveryHeadDimensionOutputMaskLayoutBlockOfScalesAndLayoutOfV) {
    for (std::int64_t dim = 16; dim <= 256; dim += 16)
        for (const DType out : {DType::bf16, DType::f16, DType::e4m3})
            for (const bool causal : {false, true})
                for (const bool ragged : {false, true})
                    for (const int block : {0, 64, 128})
                        for (const bool transposed : {false, true}) {
                            AttentionProblem p = problem(3, 777, dim, causal);
                            p.dtype = p.kv_dtype = DType::e4m3;
                            p.out_dtype = out;
                            p.scale_block = block;
                            if (block != 0) p.k_scale = {ScaleKind::block, 7 * 32, 7, 1, 0};
                            if (ragged) p = packed(p);
                            if (transposed) transpose_v(p);
                            const Result<Plan> plan = planner::choose(p, {});
                            ASSERT_TRUE(plan) << plan.error().text();
                            const KernelConfig& c = planner::kernel_at(plan->variant);
                            EXPECT_EQ(c.family, Family::prefill_fp8);
                            EXPECT_GE(c.head_dim, dim);
                            EXPECT_EQ(c.out, out == DType::bf16 ? Elem::bf16 : out == DType::f16 ? Elem::f16 : Elem::e4m3);
                            EXPECT_EQ(c.packed, ragged);
                            EXPECT_EQ(c.v_transposed, transposed);
                            // With V given transposed, or with e4m3 output, one kernel does blocks of both sizes.
                            EXPECT_EQ(c.scale_block, (transposed || out == DType::e4m3) && block != 0 ? 64 : block);
                        }
}

// V is transposed once where many query tiles read it; not where the first blocks' wait costs more than that, nor where no kernel does so.
TEST(Choose, Fp8ValuesThatAreReadOftenAreTransposedOnce) {
    const auto plan_of = [](std::int64_t batch, std::int64_t seq, std::int64_t dim, auto change) {
        AttentionProblem p = problem(batch, seq, dim, false, 2048 / dim);
        p.dtype = p.kv_dtype = DType::e4m3;
        p.out_dtype = DType::f16;
        change(p);
        const Result<Plan> plan = planner::choose(p, {});
        EXPECT_TRUE(plan) << plan.error().text();
        return plan ? *plan : Plan{};
    };
    const auto same = [](AttentionProblem&) {};
    const auto turned = [](const Plan& plan) {
        const bool is = planner::kernel_at(plan.variant).v_turned;
        const std::int64_t v = is ? plan.problem.tokens_kv * plan.problem.kv_heads * plan.problem.head_dim : 0;
        const std::int64_t row = (2 + planner::kernel_at(plan.variant).head_dim) * 4;
        EXPECT_EQ(plan.scratch_bytes, v + plan.split_jobs * plan.parts * plan.tile_m * row) << plan.kernel;
        return is;
    };
    for (const std::int64_t dim : {128, 256}) {
        EXPECT_TRUE(turned(plan_of(1, 16384, dim, same)));
        EXPECT_FALSE(turned(plan_of(1, 512, dim, same)));
        EXPECT_FALSE(turned(plan_of(1, 16384, dim, [](auto& p) { p = packed(p); })));
        EXPECT_FALSE(turned(plan_of(1, 16384, dim, [](auto& p) { transpose_v(p); })));
        EXPECT_FALSE(turned(plan_of(1, 16384, dim, [](auto& p) { p.out_dtype = DType::e4m3; })));
        EXPECT_FALSE(turned(plan_of(1, 16384, dim, [](auto& p) { p.scale_block = 128, p.k_scale = {ScaleKind::block, 128 * 8, 128, 1, 0}; })));
        EXPECT_FALSE(turned(plan_of(64, 1, dim, [](auto& p) { p.max_seqlen_kv = 16384, p.tokens_kv = 64 * 16384, testing::fill_strides(p); })));
    }
    // Nor where the caller does not give the memory, to the byte.
    const std::int64_t needed = 16384 * 8 * 256;
    EXPECT_TRUE(turned(plan_of(1, 16384, 256, [&](auto& p) { p.max_scratch_bytes = needed; })));
    EXPECT_FALSE(turned(plan_of(1, 16384, 256, [&](auto& p) { p.max_scratch_bytes = needed - 1; })));
    // With the same limit and bits, whatever the batch: the kernel that one sequence has, or its twin.
    const auto invariant_plan = [&](std::int64_t batch) {
        return plan_of(batch, 16384, 128, [&](auto& p) { p.causal = p.batch_invariant = true, p.max_scratch_bytes = 16384 * 16 * 128; });
    };
    ASSERT_TRUE(turned(invariant_plan(1)));
    EXPECT_FALSE(turned(invariant_plan(2)));
    EXPECT_EQ(planner::kernel_at(invariant_plan(2).variant), planner::without_turning(planner::kernel_at(invariant_plan(1).variant)));
    // The same bits without the memory, if the batch is not to change them; the fastest without a copy in any case.
    const Plan plan = plan_of(2, 8192, 256, [](auto& p) { p.batch_invariant = true; });
    ASSERT_TRUE(turned(plan));
    const Result<Plan> instead = planner::replace_without_scratch(plan, {});
    ASSERT_TRUE(instead) << instead.error().text();
    EXPECT_EQ(planner::kernel_at(instead->variant), planner::without_turning(planner::kernel_at(plan.variant)));
    EXPECT_EQ(instead->scratch_bytes, 0);
    AttentionProblem mixed = problem(1, 16384, 128);
    mixed.kv_dtype = DType::e4m3;
    const Result<Plan> widened = planner::choose(mixed, {});
    ASSERT_TRUE(widened);
    ASSERT_TRUE(planner::replace_without_scratch(*widened, {}));
    Plan invariant = *widened;
    invariant.problem.batch_invariant = true;
    EXPECT_FALSE(planner::replace_without_scratch(invariant, {}));
}

// Where it was measured faster, whatever the output's type and V's layout; multipliers by block and batch invariance are the main family's.
TEST(Choose, Fp8FoldsShortCausalPrompts) {
    const auto family = [](std::int64_t batch, std::int64_t seq, std::int64_t dim, auto change) {
        AttentionProblem p = problem(batch, seq, dim);
        p.dtype = p.kv_dtype = DType::e4m3;
        p.out_dtype = DType::bf16;
        change(p);
        const Result<Plan> plan = planner::choose(p, {});
        EXPECT_TRUE(plan) << plan.error().text();
        return plan ? planner::kernel_at(plan->variant).family : Family::prefill;
    };
    const auto same = [](AttentionProblem&) {};
    for (const std::int64_t dim : {64, 128}) {
        for (const std::int64_t seq : {256, 512}) {
            EXPECT_EQ(family(1, seq, dim, same), Family::prefill_fp8_folded) << dim << " " << seq;
            EXPECT_EQ(family(1, seq, dim, [](auto& p) { p.out_dtype = DType::e4m3; }), Family::prefill_fp8_folded);
            EXPECT_EQ(family(1, seq, dim, [](auto& p) { p.out_dtype = DType::e4m3, transpose_v(p); }), Family::prefill_fp8_folded);
            EXPECT_EQ(family(1, seq, dim, [](auto& p) { p.batch_invariant = true; }), Family::prefill_fp8);
            EXPECT_EQ(family(1, seq, dim, [](auto& p) { p.causal = false; }), Family::prefill_fp8);
            EXPECT_EQ(family(1, seq, dim, [](auto& p) { p.scale_block = 64, p.k_scale = {ScaleKind::block, 8 * 32, 8, 1, 0}; }), Family::prefill_fp8);
        }
        EXPECT_EQ(family(1, 256, dim, [](auto& p) { p.out_dtype = DType::f16, p = packed(p); }), Family::prefill_fp8_folded);
        EXPECT_EQ(family(1, 256, dim, [](auto& p) { p = packed(p), transpose_v(p); }), Family::prefill_fp8_folded);
        EXPECT_EQ(family(1, 128, dim, same), Family::prefill_fp8);
        EXPECT_EQ(family(2, 512, dim, same), Family::prefill_fp8);
        EXPECT_EQ(family(1, 1024, dim, same), Family::prefill_fp8);
    }
}

TEST(Choose, SixteenBitQueriesOnFp8KeysAndValuesHaveAKernelForEveryHeadDimensionTypeMaskAndLayout) {
    for (std::int64_t dim = 16; dim <= 256; dim += 16)
        for (const DType dtype : {DType::bf16, DType::f16})
            for (const bool causal : {false, true})
                for (const bool ragged : {false, true}) {
                    AttentionProblem p = problem(3, 777, dim, causal);
                    p.dtype = p.out_dtype = dtype;
                    p.kv_dtype = DType::e4m3;
                    if (ragged) p = packed(p);
                    const Result<Plan> plan = planner::choose(p, {});
                    ASSERT_TRUE(plan) << plan.error().text();
                    const KernelConfig& c = planner::kernel_at(plan->variant);
                    EXPECT_TRUE(is_mixed(c.family)) << plan->kernel;
                    EXPECT_GE(c.head_dim, dim);
                    EXPECT_EQ(c.elem == Elem::f16, dtype == DType::f16);
                    const std::int64_t copies = 2 * 2 * p.tokens_kv * p.kv_heads * dim;
                    EXPECT_EQ(plan->scratch_bytes > 0, c.family == Family::prefill_widened);
                    if (plan->scratch_bytes > 0) {
                        EXPECT_GE(plan->scratch_bytes, copies);
                        EXPECT_LT(plan->scratch_bytes, copies + 512);
                    }
                    const Result<Plan> without = planner::choose_without_scratch(p, {});
                    ASSERT_EQ(without.ok(), dim <= 128);
                    if (without) {
                        EXPECT_EQ(planner::kernel_at(without->variant).family, Family::prefill_mixed);
                        EXPECT_EQ(without->scratch_bytes, 0);
                    } else {
                        EXPECT_THAT(without.error().message, HasSubstr("without scratch"));
                    }
                }
}

// Copies pay where each block of K and V is read by several query tiles; a batch does not change what batch-invariant plans take.
TEST(Choose, KeysAndValuesThatAreReadOftenAreWidenedFirst) {
    const auto plan_of = [](std::int64_t batch, std::int64_t seq_q, std::int64_t seq_kv, std::int64_t kv_heads, bool invariant = false) {
        AttentionProblem p = problem(batch, seq_q, 128);
        p.kv_dtype = DType::e4m3;
        p.kv_heads = kv_heads;
        p.max_seqlen_kv = seq_kv;
        p.tokens_kv = batch * seq_kv;
        p.batch_invariant = invariant;
        testing::fill_strides(p);
        const Result<Plan> plan = planner::choose(p, {});
        EXPECT_TRUE(plan) << plan.error().text();
        return plan ? *plan : Plan{};
    };
    const auto family = [](const Plan& plan) { return planner::kernel_at(plan.variant).family; };
    EXPECT_EQ(family(plan_of(1, 16384, 16384, 8)), Family::prefill_widened);
    EXPECT_EQ(family(plan_of(1, 2048, 2048, 32)), Family::prefill_widened);
    EXPECT_EQ(family(plan_of(1, 512, 512, 32)), Family::prefill_mixed);
    EXPECT_EQ(family(plan_of(8, 16, 4096, 32)), Family::prefill_mixed) << "one tile a sequence: bound by memory";
    EXPECT_EQ(plan_of(1, 512, 512, 32, true).kernel, plan_of(64, 512, 512, 32, true).kernel);
    EXPECT_EQ(plan_of(1, 2048, 2048, 32, true).kernel, plan_of(64, 2048, 2048, 32, true).kernel);
    // The model counts the copies.
    const Plan widened = plan_of(1, 16384, 16384, 8);
    AttentionProblem sixteen = widened.problem;
    sixteen.kv_dtype = sixteen.dtype;
    const Result<Plan> plain = planner::choose(sixteen, {});
    ASSERT_TRUE(plain);
    EXPECT_GT(widened.modelled_us, plain->modelled_us + 2);
    EXPECT_LT(widened.modelled_us, plain->modelled_us * 1.05);
}

TEST(Choose, ScratchMemoryHasTheCallersLimit) {
    AttentionProblem p = problem(1, 16384, 128);
    p.kv_dtype = DType::e4m3;
    p.max_scratch_bytes = 0;
    const Result<Plan> plan = planner::choose(p, {});
    ASSERT_TRUE(plan);
    EXPECT_EQ(planner::kernel_at(plan->variant).family, Family::prefill_mixed);
    EXPECT_EQ(plan->scratch_bytes, 0);
    // A batch that fits has the kernel of one that does not.
    p.max_scratch_bytes = 1 << 30;
    p.batch_invariant = true;
    EXPECT_EQ(planner::kernel_at(planner::choose(p, {})->variant).family, Family::prefill_mixed);
    AttentionProblem wide = problem(1, 1000, 256);
    wide.kv_dtype = DType::e4m3;
    wide.max_scratch_bytes = 1000;
    const Result<Plan> refused = planner::choose(wide, {});
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, Code::unsupported);
    EXPECT_EQ(refused.error().argument, "max_scratch_bytes");
    EXPECT_THAT(refused.error().message, HasSubstr("1000"));
}

TEST(Choose, RefusesWhatNoKernelComputes) {
    const auto refuse = [](auto spoil, const char* argument, const char* message) {
        AttentionProblem p = problem(2, 512, 128);
        DeviceInfo device;
        spoil(p, device);
        const Result<Plan> plan = planner::choose(p, device);
        ASSERT_FALSE(plan) << message;
        EXPECT_EQ(plan.error().code, Code::unsupported);
        EXPECT_EQ(plan.error().argument, argument);
        EXPECT_THAT(plan.error().message, HasSubstr(message));
    };
    refuse([](auto& p, auto&) { p.dtype = p.out_dtype = DType::f32; }, "q", "f16, bf16 and e4m3");
    refuse([](auto& p, auto&) { p.out_dtype = DType::f32; }, "o", "inputs' dtype");
    refuse([](auto& p, auto&) { p.kv_dtype = DType::f16; }, "k", "q's dtype and e4m3");
    const auto mixed = [](auto& p) { p.kv_dtype = DType::e4m3; };
    refuse([&](auto& p, auto&) { mixed(p), p.scale_block = 64; }, "scale_block", "where q is e4m3");
    refuse([&](auto& p, auto&) { mixed(p), p.v_transposed = true; }, "v_transposed", "where q is e4m3");
    refuse([&](auto& p, auto&) { mixed(p), p.out_dtype = DType::f16; }, "o", "inputs' dtype");
    refuse([&](auto& p, auto&) { mixed(p), p.head_dim = 72; }, "q", "multiples of 16");
    refuse([&](auto& p, auto&) { mixed(p), p.head_dim = 272; }, "q", "to 256");
    refuse([&](auto& p, auto&) { mixed(p), p.k.seq += 8; }, "k.strides[seq]", "multiple of 16");
    const auto fp8 = [](auto& p) { p.dtype = p.kv_dtype = DType::e4m3; };
    refuse([&](auto& p, auto&) { fp8(p), p.out_dtype = DType::f32; }, "o", "f16, bf16 and e4m3");
    refuse([&](auto& p, auto&) { fp8(p), p.out_dtype = DType::e4m3, p.o.seq += 8; }, "o.strides[seq]", "multiple of 16");
    refuse([&](auto& p, auto&) { fp8(p), transpose_v(p), p.v.seq += 8; }, "v.strides[head_dim]", "multiple of 16");
    refuse([&](auto& p, auto&) { fp8(p), transpose_v(p), p.v.head = -16; }, "v.strides[heads]", "positive multiple of 16");
    refuse([&](auto& p, auto&) { fp8(p), transpose_v(p), p.v.batch = std::int64_t{1} << 39; }, "v.strides[batch]", "below 2^39");
    refuse([&](auto& p, auto&) { fp8(p), p.q.seq += 8; }, "q.strides[seq]", "multiple of 16");
    refuse([&](auto& p, auto&) { fp8(p), p.k_scale = {ScaleKind::head, 0, -1, 0, 0}; }, "k_scale", "stride of -1");
    refuse([&](auto& p, auto&) { fp8(p), p.v_scale = {ScaleKind::channel, 0, 128, 0, 2}; }, "v_scale", "stride of 2");
    refuse([&](auto& p, auto&) { fp8(p), p.scale_block = 32; }, "scale_block", "64 and 128");
    refuse([](auto& p, auto&) { p.k.seq += 4; }, "k.strides[seq]", "multiple of 8");
    refuse([](auto& p, auto&) { p.v.head = 0; }, "v.strides[heads]", "positive");
    refuse([](auto& p, auto&) { p.o.batch = std::int64_t{1} << 38; }, "o.strides[batch]", "2^38");
    refuse(
        [](auto& p, auto&) {
            p = packed(p);
            p.k.seq = std::int64_t{1} << 34;
        },
        "k.strides[seq]", "2^34");
    refuse([](auto& p, auto&) { p.scale = -1; }, "scale", "-1");
    refuse([](auto&, auto& d) { d.sm_major = 10; }, "device", "9.0");
    refuse([](auto&, auto& d) { d.num_sms = 0; }, "device", "multiprocessors");
    refuse([](auto&, auto& d) { d.shared_memory_per_block = 49152; }, "device", "shared memory");
}

}  // namespace
}  // namespace hopfill
