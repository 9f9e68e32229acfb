// Lowering: kernel arguments, and tensor maps within the limits of cuTensorMapEncodeTiled.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <random>
#include <vector>

#include "plan/launch.h"
#include "problems.h"

namespace hopfill {
namespace {

using testing::packed;
using testing::problem;

// Tensors of a problem, with addresses that are never read.
AttentionTensors tensors_of(const AttentionProblem& p) {
    alignas(16) static std::array<char, 16> memory;
    const auto view = [&](std::int64_t heads, std::int64_t seq, std::int64_t tokens) {
        return p.packed ? contiguous(memory.data(), p.dtype, {tokens, heads, p.head_dim})
                        : contiguous(memory.data(), p.dtype, {p.batch, seq, heads, p.head_dim});
    };
    AttentionTensors t;
    t.q = t.o = view(p.heads, p.max_seqlen_q, p.tokens_q);
    t.k = t.v = view(p.kv_heads, p.max_seqlen_kv, p.tokens_kv);
    if (p.v_transposed) {
        const std::size_t heads = p.packed ? 0 : 1;
        t.v.shape = {p.batch, p.kv_heads, p.head_dim, p.max_seqlen_kv};
        if (p.packed) t.v.shape = {p.kv_heads, p.head_dim, p.tokens_kv, 0};
        t.v.strides[0] = p.v.batch;
        t.v.strides[heads] = p.v.head;
        t.v.strides[heads + 1] = p.v.seq;
        t.v.strides[heads + 2] = 1;
    }
    if (p.packed) t.cu_seqlens_q = t.cu_seqlens_k = contiguous(memory.data(), DType::i32, {p.batch + 1});
    return t;
}

void expect_encodable(const TensorMapSpec& s) {
    EXPECT_NE(s.base, nullptr);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(s.base) % 16, 0u);
    for (const std::uint64_t size : s.size) {
        EXPECT_GE(size, 1u);
        EXPECT_LE(size, std::uint64_t{1} << 32);
    }
    for (const std::uint64_t stride : s.stride) {
        EXPECT_EQ(stride % 16, 0u);
        EXPECT_LT(stride, std::uint64_t{1} << 40);
    }
    for (const std::uint32_t box : s.box) {
        EXPECT_GE(box, 1u);
        EXPECT_LE(box, 256u);
    }
    EXPECT_LE(s.box[0] * static_cast<std::uint32_t>(elem_bytes(s.elem)), 128u);
}

TEST(MakeLaunch, TensorMapsCanBeEncoded) {
    for (const std::int64_t dim : {8, 72, 128, 256}) {
        for (const std::int64_t seq : {1, 100, 3000}) {
            for (const bool ragged : {false, true}) {
                AttentionProblem p = problem(2, seq, dim);
                if (ragged) p = packed(p);
                const Result<Plan> plan = planner::choose(p, {});
                ASSERT_TRUE(plan);
                const Result<planner::LaunchSpec> launch = planner::make_launch(*plan, tensors_of(p));
                ASSERT_TRUE(launch) << launch.error().text();
                for (const TensorMapSpec& s : {launch->q, launch->k, launch->v, launch->o}) expect_encodable(s);
                EXPECT_EQ(launch->grid, plan->grid);
                EXPECT_EQ(launch->threads, plan->threads);
                EXPECT_EQ(launch->params.heads_per_kv_head, 1);
                EXPECT_EQ(launch->params.jobs, plan->jobs);
            }
        }
    }
}

TEST(Divisor, DividesAsADivisionDoes) {
    constexpr u32 kMost = (1u << 31) - 1;
    std::mt19937_64 random(1);
    std::vector<u32> divisors{1, 2, 3, 5, 7, 128, 640, 641, 65535, 65536, 65537, 1u << 30, (1u << 30) + 1, kMost - 1, kMost};
    for (int i = 0; i < 2000; ++i) divisors.push_back(std::max(1u, static_cast<u32>(random() % kMost) >> random() % 31));
    for (const u32 d : divisors) {
        const Divisor by = divisor_of(d);
        // Where the quotient changes a product that is off would show first.
        const u32 last = kMost / d * d;
        std::vector<u32> numbers{0, 1, d - 1, d, kMost, last, last - 1};
        for (int i = 0; i < 100; ++i) {
            const u32 n = static_cast<u32>(random() >> 33);
            numbers.insert(numbers.end(), {n, n / d * d, n / d * d - (n >= d)});
        }
        for (const u32 n : numbers) ASSERT_EQ(divide(n, by), static_cast<i32>(n / d)) << n << " / " << d;
    }
}

// What a device finds a job with: the host's numbers, as products.
TEST(MakeLaunch, DivisorsAreOfTheNumbersBesideThem) {
    bool shorter = false;
    for (const auto& [batch, heads, kv_heads] : {std::array<std::int64_t, 3>{1, 24, 8}, {3, 24, 8}, {7, 24, 8}, {61, 3, 1}}) {
        for (const bool ragged : {false, true}) {
            AttentionProblem p = problem(batch, 700, 128, true, heads);
            p.kv_heads = kv_heads;
            testing::fill_strides(p);
            if (ragged) p = packed(p);
            const Result<Plan> plan = planner::choose(p, {});
            ASSERT_TRUE(plan);
            const Result<planner::LaunchSpec> launch = planner::make_launch(*plan, tensors_of(p));
            ASSERT_TRUE(launch) << launch.error().text();
            const PrefillParams& a = launch->params;
            const i32 width = std::max(a.heads_per_group, 1), last = a.batch * a.heads % width;
            shorter = shorter || (!ragged && last != 0);
            for (u32 n = 0; n < static_cast<u32>(a.jobs); ++n) {
                const auto number = static_cast<i32>(n);
                ASSERT_EQ(divide(n, a.by_heads), number / a.heads);
                ASSERT_EQ(divide(n, a.by_kv_group), number / a.heads_per_kv_head);
                if (ragged) continue;
                ASSERT_EQ(divide(n, a.by_group), number / (width * a.q_tiles));
                ASSERT_EQ(divide(n, a.by_width), number / width);
                ASSERT_EQ(divide(n, a.by_last_width), number / (last == 0 ? width : last));
            }
        }
    }
    EXPECT_TRUE(shorter) << "no last group with fewer heads";
}

// Warps that store their own rows ask for boxes of those.
TEST(MakeLaunch, OutputBoxesAreWhatIsStoredAtOnce) {
    for (const std::int64_t dim : {64, 128, 192, 256})
        for (const bool causal : {false, true}) {
            AttentionProblem p = problem(1, 256, dim);
            p.causal = causal;
            for (int variant = 0; variant < planner::variants(); ++variant) {
                const Result<Plan> plan = planner::plan_variant(p, {}, variant);
                if (!plan) continue;
                const Result<planner::LaunchSpec> launch = planner::make_launch(*plan, tensors_of(p));
                ASSERT_TRUE(launch) << launch.error().text();
                const KernelConfig& c = launch->config;
                const bool by_warps = c.ahead || (c.family == Family::prefill && c.head_dim == 256);
                EXPECT_EQ(launch->o.box[2], by_warps ? 16u : 64u) << plan->kernel;
                EXPECT_EQ(launch->q.box[2], 64u) << plan->kernel;
            }
        }
}

TEST(MakeLaunch, TransposedValuesComeInRowsOfTokens) {
    for (const std::int64_t dim : {48, 128, 256})
        for (const std::int64_t seq : {0, 1, 2, 101, 3000})
            for (const bool ragged : {false, true}) {
                AttentionProblem p = problem(2, 333, dim);
                p.max_seqlen_kv = seq;
                p.tokens_kv = 2 * seq;
                p.dtype = p.kv_dtype = DType::e4m3;
                p.out_dtype = DType::bf16;
                testing::fill_strides(p);
                if (ragged) p = packed(p);
                testing::transpose_v(p);
                const Result<Plan> plan = planner::choose(p, {});
                ASSERT_TRUE(plan) << plan.error().text();
                const Result<planner::LaunchSpec> launch = planner::make_launch(*plan, tensors_of(p));
                ASSERT_TRUE(launch) << launch.error().text();
                int named = 0;
                for (const auto& [tensor, from, to] : launch->maps()) {
                    if (tensor == nullptr) continue;
                    ++named;
                    expect_encodable(*from);
                }
                EXPECT_EQ(named, 5);
                EXPECT_EQ(launch->v.size[0], std::max<std::uint64_t>(1, static_cast<std::uint64_t>(ragged ? 2 * seq : seq)));
                EXPECT_EQ(launch->v.size[1], static_cast<std::uint64_t>(dim));
                if (ragged) {
                    EXPECT_EQ(launch->v_edge.box[0], 16u);
                    EXPECT_EQ(launch->v_edge.base, launch->v.base);
                } else if (seq > 1) {
                    // Rows 0, 2, ... and 1, 3, ...: all there are and no more.
                    const std::uint64_t row = launch->k.stride[1] / 2, rows = static_cast<std::uint64_t>(seq);
                    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(launch->k_odd.base), reinterpret_cast<std::uintptr_t>(launch->k.base) + row);
                    EXPECT_EQ(launch->k.size[2] + launch->k_odd.size[2], rows);
                    EXPECT_EQ(launch->k.size[2], (rows + 1) / 2);
                    EXPECT_EQ(row, static_cast<std::uint64_t>(32 * dim));
                }
            }
}

// Where a launch's copies lie, if it has some; nothing is written there.
const char* place_copies(planner::LaunchSpec& launch) {
    alignas(256) static std::array<char, 256> scratch;
    if (launch.scratch_bytes > 0) launch.place_scratch(scratch.data());
    return scratch.data();
}

TEST(MakeLaunch, TurnedValuesLieInScratchMemory) {
    for (const std::int64_t seq : {0, 3, 1000})
        for (const std::int64_t dim : {80, 128, 240}) {
            AttentionProblem p = problem(2, 3000, dim);
            p.max_seqlen_kv = seq;
            p.tokens_kv = 2 * seq;
            p.kv_heads = 4;
            p.dtype = p.kv_dtype = DType::e4m3;
            p.out_dtype = DType::bf16;
            testing::fill_strides(p);
            int variant = 0;
            while (!planner::kernel_at(variant).v_turned || !planner::plan_variant(p, {}, variant)) ++variant;
            const Result<Plan> plan = planner::plan_variant(p, {}, variant);
            AttentionTensors t = tensors_of(p);
            t.o.dtype = DType::bf16;
            Result<planner::LaunchSpec> launch = planner::make_launch(*plan, t);
            ASSERT_TRUE(launch) << launch.error().text();
            EXPECT_EQ(launch->scratch_bytes, plan->scratch_bytes);
            EXPECT_FALSE(launch->copying);
            EXPECT_EQ(launch->scratch_bytes > 0, seq > 0);
            const char* const scratch = place_copies(*launch);
            expect_encodable(launch->k);
            expect_encodable(launch->v);
            expect_encodable(launch->v_given);
            expect_encodable(launch->v_stored);
            EXPECT_EQ(launch->k.box[2], static_cast<std::uint32_t>(planner::kernel_at(variant).tile_n));
            const LaunchParams& a = launch->params;
            EXPECT_EQ(a.turned_heads, 2 * 4);
            EXPECT_EQ(a.turned_blocks, (seq + 127) / 128);
            if (seq == 0) continue;
            EXPECT_EQ(launch->v_given.base, t.v.data);
            EXPECT_EQ(launch->v.base, scratch);
            EXPECT_EQ(launch->v_stored.base, scratch);
            EXPECT_EQ(launch->v_stored.size, launch->v.size);
            EXPECT_EQ(launch->v_stored.stride, launch->v.stride);
            // Whole groups of 16 keys, and no more memory than the last row needs.
            EXPECT_EQ(launch->v.size[0], static_cast<std::uint64_t>((seq + 15) / 16 * 16));
            EXPECT_EQ(launch->v.size[1], static_cast<std::uint64_t>(dim));
            EXPECT_EQ(launch->v.stride[2] * 2, static_cast<std::uint64_t>(launch->scratch_bytes));
        }
}

// Parts are numbered behind the whole jobs; their records lie behind v transposed, and the words that count them behind those of its turning.
TEST(MakeLaunch, PartsOfSplitJobsHaveRecordsAndWords) {
    for (const bool fp8 : {false, true}) {
        AttentionProblem p = problem(2, 3000, 128, false);
        p.kv_heads = 4;
        if (fp8) p.dtype = p.kv_dtype = DType::e4m3, p.out_dtype = DType::bf16;
        testing::fill_strides(p);
        int variant = 0;
        while (!planner::kernel_at(variant).splits || !planner::plan_variant(p, {}, variant)) ++variant;
        const KernelConfig& c = planner::kernel_at(variant);
        const Plan whole = planner::with_split(*planner::plan_variant(p, {}, variant), {}, 132), plan = planner::with_split(whole, {7, 3}, 132);
        AttentionTensors t = tensors_of(p);
        t.o.dtype = DType::bf16;
        const Result<planner::LaunchSpec> unsplit = planner::make_launch(whole, t);
        Result<planner::LaunchSpec> launch = planner::make_launch(plan, t);
        ASSERT_TRUE(launch && unsplit);
        EXPECT_EQ(unsplit->params.jobs, whole.jobs);
        EXPECT_EQ(unsplit->params.whole_jobs, whole.jobs);
        const LaunchParams& a = launch->params;
        EXPECT_EQ(a.whole_jobs, plan.jobs - 7);
        EXPECT_EQ(a.jobs, plan.jobs - 7 + 21);
        EXPECT_EQ(a.parts, 3);
        EXPECT_EQ(a.q_tiles, unsplit->params.q_tiles);
        for (u32 i = 0; i < 21; ++i) EXPECT_EQ(divide(i, a.by_parts), static_cast<i32>(i / 3));
        EXPECT_EQ(a.o_rows, t.o.data);
        EXPECT_EQ(a.o_batch, t.o.strides[0]);
        EXPECT_EQ(a.o_seq, t.o.strides[1]);
        EXPECT_EQ(a.o_head, t.o.strides[2]);
        const std::int64_t records = 21 * plan.tile_m * (2 + 128) * 4;
        EXPECT_EQ(launch->scratch_bytes, plan.scratch_bytes);
        EXPECT_EQ(launch->scratch_bytes - unsplit->scratch_bytes, records);
        EXPECT_EQ(unsplit->scratch_bytes > 0, fp8);
        const char* const scratch = place_copies(*launch);
        EXPECT_EQ(static_cast<const char*>(a.part_records) + records, scratch + launch->scratch_bytes);
        EXPECT_EQ(reinterpret_cast<std::uintptr_t>(a.part_records) % 16, 0U);
        EXPECT_EQ(launch->v.base == scratch, fp8);
        EXPECT_EQ(planner::counting_words(*launch) - planner::counting_words(*unsplit), 7U * 4 * static_cast<unsigned>(c.consumers));
        std::vector<u32> words(planner::counting_words(*launch));
        LaunchParams placed = a;
        planner::place_words(*launch, placed, words.data());
        EXPECT_EQ(placed.parts_done, words.data() + planner::counting_words(*unsplit));
    }
}

// The maps are of copies that another launch makes.
TEST(MakeLaunch, WidenedKeysAndValuesLieInScratchMemory) {
    for (const std::int64_t seq : {0, 3, 1000})
        for (const bool ragged : {false, true}) {
            AttentionProblem p = problem(2, 333, 144);
            p.max_seqlen_kv = seq;
            p.tokens_kv = 2 * seq;
            p.kv_heads = 4;
            p.kv_dtype = DType::e4m3;
            testing::fill_strides(p);
            if (ragged) p = packed(p);
            const Result<Plan> plan = planner::choose(p, {});
            ASSERT_TRUE(plan) << plan.error().text();
            AttentionTensors t = tensors_of(p);
            t.k.dtype = t.v.dtype = DType::e4m3;
            Result<planner::LaunchSpec> launch = planner::make_launch(*plan, t);
            ASSERT_TRUE(launch) << launch.error().text();
            EXPECT_EQ(launch->scratch_bytes, plan->scratch_bytes);
            ASSERT_EQ(launch->copying.has_value(), seq > 0);
            const char* const scratch = place_copies(*launch);
            for (const TensorMapSpec& s : {launch->k, launch->v}) {
                expect_encodable(s);
                EXPECT_EQ(s.elem, Elem::bf16);
            }
            if (seq == 0) continue;
            const planner::QuantizeLaunch& widening = *launch->copying;
            EXPECT_EQ(widening.widen.tensor[0].in, t.k.data);
            EXPECT_EQ(launch->k.base, scratch);
            EXPECT_EQ(widening.widen.tensor[0].out, launch->k.base);
            EXPECT_EQ(widening.widen.tensor[1].out, launch->v.base);
            EXPECT_EQ(static_cast<const char*>(launch->v.base) - scratch, launch->scratch_bytes / 2);
            EXPECT_GE(launch->scratch_bytes, 2 * 2 * p.tokens_kv * 4 * 144);
            // Every token has a thread block.
            EXPECT_GE(i64{widening.widen.tile} * widening.grid / 2, p.tokens_kv);
            EXPECT_EQ(launch->k.stride[0], 144u * 2);
            EXPECT_EQ(launch->k.stride[1], 4u * 144 * 2);
        }
}

// The identity by which TMA's own bounds check ends at a ragged sequence's end (plan/tensor_map.h), in 64-bit arithmetic that wraps.
TEST(MakeLaunch, RaggedStridesWrapToTheRowAskedFor) {
    const AttentionProblem p = packed(problem(3, 500, 128));
    const Result<Plan> plan = planner::choose(p, {});
    const Result<planner::LaunchSpec> launch = planner::make_launch(*plan, tensors_of(p));
    ASSERT_TRUE(launch);
    const TensorMapSpec& k = launch->k;
    const std::uint64_t row_bytes = 32 * 128 * 2;
    for (const std::uint64_t end : {1u, 500u, 1499u}) {
        for (std::uint64_t row = 0; row < end; row += 131) {
            const std::uint64_t inner = kRaggedRows - (end - row), wrap = kRaggedRows;
            EXPECT_LT(inner, k.size[2]);
            EXPECT_EQ(inner * k.stride[1] + end * k.stride[2] + wrap * k.stride[3], row * row_bytes);
        }
    }
}

TEST(MakeLaunch, RefusesPlansWithoutAKernelAndMisalignedTensors) {
    const AttentionProblem p = problem(1, 64, 64);
    Plan none;
    none.problem = p;
    EXPECT_FALSE(planner::make_launch(none, tensors_of(p)));

    const Result<Plan> plan = planner::choose(p, {});
    AttentionTensors t = tensors_of(p);
    t.v.data = static_cast<char*>(t.v.data) + 2;
    const Result<planner::LaunchSpec> launch = planner::make_launch(*plan, t);
    ASSERT_FALSE(launch);
    EXPECT_EQ(launch.error().argument, "v");
    EXPECT_THAT(launch.error().message, ::testing::HasSubstr("16-byte"));
}

}  // namespace
}  // namespace hopfill
