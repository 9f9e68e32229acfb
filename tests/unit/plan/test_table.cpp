// The tile table, geometry and names.
#include <gtest/gtest.h>

#include <set>
#include <string>

#include "plan/geometry.h"
#include "plan/launch.h"

namespace hopfill {
namespace {

TEST(KernelTable, NamesTellKernelsApart) {
    std::set<std::string> names, expressions;
    for (const auto* table : {&planner::kernel_table(), &planner::first_use_table()})
        for (const KernelConfig& c : *table) {
            EXPECT_TRUE(names.insert(planner::kernel_name(c)).second) << planner::kernel_name(c);
            EXPECT_TRUE(expressions.insert(planner::kernel_expression(c)).second);
        }
}

TEST(KernelTable, VariantsIndexIt) {
    int i = 0;
    for (const auto* table : {&planner::kernel_table(), &planner::first_use_table(), &planner::tuning_table()})
        for (const KernelConfig& c : *table) EXPECT_EQ(planner::kernel_at(i++), c);
    EXPECT_EQ(i, planner::variants());
}

TEST(Geometry, FitsABlockAndMeetsAlignment) {
    for (int i = 0; i < planner::variants() - static_cast<int>(planner::tuning_table().size()); ++i) {
        const KernelConfig& c = planner::kernel_at(i);
        SCOPED_TRACE(planner::kernel_name(c));
        const Geometry g = geometry(c);
        EXPECT_LE(g.total, kSharedLimit);
        EXPECT_EQ(g.total, planner::shared_bytes(c));
        EXPECT_EQ(g.threads, planner::threads(c));
        EXPECT_LE(g.threads, 1024);
        // A 128-byte swizzle repeats every 1024 bytes, and wgmma and TMA agree on it only from such an address.
        for (const i32 offset : {g.q, g.k, g.v, g.vt, g.raw, g.o}) EXPECT_EQ(offset % 1024, 0);
        EXPECT_EQ(g.kv_slab % 1024, 0);
        EXPECT_EQ(g.raw_slab % 128, 0);
        EXPECT_EQ(g.raw_block, g.raw_stages > 0 ? g.kv_block / 2 : 0);
        EXPECT_EQ(g.o_slab % 1024, 0);
        EXPECT_EQ(g.barriers % 8, 0);
        EXPECT_EQ(g.scales % scale_bytes(), 0);
        EXPECT_GE(g.q_slots, 1);
        EXPECT_GE(g.o_staged, 1);
        const i32 areas[] = {g.q, g.k, g.v, g.vt, g.raw, g.o, g.merge, g.jobs, g.scales, g.barriers, g.total};
        for (std::size_t i = 1; i < std::size(areas); ++i) EXPECT_LE(areas[i - 1], areas[i]);
    }
}

// The tile's KV range against a count over rows and keys.
TEST(Geometry, KvRangeCoversWhatRowsSeeAndMasksWhatTheyDoNot) {
    KernelConfig c;
    c.tile_n = 8;
    for (const Mask mask : {Mask::full, Mask::causal}) {
        c.mask = mask;
        for (const i32 q_len : {1, 5, 16, 17}) {
            for (const i32 kv_len : {0, 1, 7, 8, 9, 24, 30}) {
                for (i32 row0 = 0; row0 < q_len; row0 += 16) {
                    const KvRange range = kv_range(c, row0, 16, q_len, kv_len);
                    const i32 last_row = row0 + 16 < q_len ? row0 + 16 : q_len;
                    const auto sees = [&](i32 row, i32 key) { return key < kv_len && (mask == Mask::full || key <= row + kv_len - q_len); };
                    i32 last_seen = -1, all_seen = 0;
                    for (i32 row = row0; row < last_row; ++row)
                        for (i32 key = 0; key < kv_len; ++key)
                            if (sees(row, key)) last_seen = last_seen > key ? last_seen : key;
                    while (sees(row0, all_seen)) ++all_seen;
                    EXPECT_EQ(range.end, (last_seen + 8) / 8) << q_len << " " << kv_len << " " << row0;
                    EXPECT_LE(range.unmasked * 8, all_seen) << q_len << " " << kv_len << " " << row0;
                    EXPECT_LE(range.unmasked, range.end);
                    // Every row has seen a key before the first unmasked block.
                    if (mask == Mask::causal && all_seen > 0) {
                        EXPECT_LT(range.unmasked * 8, all_seen) << q_len << " " << kv_len << " " << row0;
                    }
                }
            }
        }
    }
}

// Every tile of 64 rows belongs to one warpgroup of one job, and a job's warpgroup 0 sees at least as far as its warpgroup 1.
TEST(Geometry, FoldedJobsCoverEveryTileOnce) {
    KernelConfig c;
    c.family = Family::prefill_folded;
    c.mask = Mask::causal;
    for (const i32 q_len : {1, 63, 64, 65, 128, 129, 192, 193, 500, 512, 1000}) {
        const i32 tiles = (q_len + 63) / 64;
        std::multiset<i32> seen;
        for (i32 job = 0; job < (q_len + geometry(c).tile_m - 1) / geometry(c).tile_m; ++job) {
            const i32 late = folded_row(job * job_stride(c), q_len, 0), early = folded_row(job * job_stride(c), q_len, 1);
            seen.insert(late / 64);
            if (early < q_len) {
                seen.insert(early / 64);
                EXPECT_LT(early, late);
            }
            for (const i32 kv_len : {q_len, q_len + 77, 10}) {
                const KvRange job_reads = job_range(c, job * job_stride(c), q_len, kv_len);
                for (const i32 row : {late, early}) EXPECT_LE(row < q_len ? kv_range(c, row, 64, q_len, kv_len).end : 0, job_reads.end);
            }
        }
        EXPECT_EQ(seen.size(), static_cast<std::size_t>(tiles)) << q_len;
        for (i32 t = 0; t < tiles; ++t) EXPECT_EQ(seen.count(t), 1U) << q_len << " tile " << t;
    }
}

}  // namespace
}  // namespace hopfill
