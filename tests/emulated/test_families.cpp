// The real kernels, every row of the planner's table, each under several schedules: no fault, and the oracle's answer.
#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <tuple>

#include "plan/geometry.h"
#include "plan/kernel_table.h"
#include "workload.h"

namespace hopfill::testing {
namespace {

// Every kernel of the catalogue, and of what is compiled at first use the first of each family, class of head dimensions, mask, layout, form of V and
// use of block scales, runs under 8; the others differ from one of those in the type of the output alone.
std::uint64_t schedules_of(const Case& c) {
    static const std::set<int> leaders = [] {
        std::set<std::tuple<Family, i32, Mask, bool, bool, i32>> seen;
        std::set<int> first;
        for (const Case& of : family_cases()) {
            const KernelConfig& k = planner::kernel_at(of.variant);
            if (seen.emplace(k.family, k.head_dim, k.mask, k.packed, k.v_transposed, k.scale_block).second) first.insert(of.variant);
        }
        return first;
    }();
    return static_cast<std::size_t>(c.variant) < planner::kernel_table().size() || leaders.contains(c.variant) ? 8 : 3;
}

class Kernels : public ::testing::TestWithParam<Case> {};

TEST_P(Kernels, AreCleanAndRightUnderEverySchedule) {
    Workload work(GetParam(), 1);
    for (std::uint64_t seed = 0; seed < schedules_of(GetParam()); ++seed) {
        // One schedule to the tensor core's bits, the others quickly.
        const Outcome outcome = work.run({.seed = seed, .exact_sums = seed == 0, .max_steps = 5'000'000}, emulator::run);
        ASSERT_EQ(outcome.kind, "clean") << work.kernel_name() << "\n" << outcome.text;
        ASSERT_GT(outcome.steps, 100u);
    }
}

INSTANTIATE_TEST_SUITE_P(Table, Kernels, ::testing::ValuesIn(family_cases()), [](const auto& info) { return info.param.name; });

std::vector<Case> short_jobs_cases() {
    std::vector<Case> cases;
    for (const Case& c : family_cases()) {
        // Of three warpgroups there are dense kernels alone. By block: where a turn is kept from job to job.
        const bool three = planner::kernel_at(c.variant).consumers == 3, packed = c.packed && (c.scale_block == 0 || c.head_dim > 128);
        if ((packed || three) && !c.f16 && !c.e4m3_out) cases.push_back(short_jobs_case(c.variant));
    }
    return cases;
}
INSTANTIATE_TEST_SUITE_P(ShortJobs, Kernels, ::testing::ValuesIn(short_jobs_cases()), [](const auto& info) { return info.param.name; });

// Where exponentials by references overflow, jobs are done again.
std::vector<Case> jumping_cases() {
    std::vector<Case> cases;
    for (const Case& c : family_cases())
        if ((!c.fp8_kv || repeats_jobs(planner::kernel_at(c.variant))) && static_cast<std::size_t>(c.variant) < planner::kernel_table().size()) {
            cases.push_back(jumping_case(c.variant));
            if (!c.packed && c.head_dim > 64) cases.push_back(jumping_case(c.variant, true));
            if (!c.fp8_kv) cases.push_back(flushing_case(c.variant));
        }
    return cases;
}
INSTANTIATE_TEST_SUITE_P(Jumps, Kernels, ::testing::ValuesIn(jumping_cases()), [](const auto& info) { return info.param.name; });

// Kernels whose long jobs differ from others.
std::vector<Case> long_job_cases() {
    std::vector<Case> cases;
    for (const Case& c : family_cases()) {
        const KernelConfig& k = planner::kernel_at(c.variant);
        if (c.f16 && !c.packed && repeats_jobs(k) && k.consumers == 2) cases.push_back(long_job_case(c.variant));
    }
    return cases;
}
INSTANTIATE_TEST_SUITE_P(LongJobs, Kernels, ::testing::ValuesIn(long_job_cases()), [](const auto& info) { return info.param.name; });

// V transposed once or on its way: the same products in the same order, so that either can take the other's place.
TEST(Kernels, GiveTheSameBitsWhoeverTransposesV) {
    int compared = 0;
    for (const Case& c : family_cases()) {
        KernelConfig twin = planner::kernel_at(c.variant);
        if (!twin.v_turned || twin.splits) continue;
        twin.v_turned = false;
        const auto& table = planner::kernel_table();
        const auto at = std::find(table.begin(), table.end(), twin);
        ASSERT_NE(at, table.end()) << c.name;
        Case other = c;
        other.variant = static_cast<int>(at - table.begin());
        Workload turned(c, 1), plain(other, 1);
        ASSERT_EQ(turned.run({.seed = 5}, emulator::run).kind, "clean");
        ASSERT_EQ(plain.run({.seed = 6}, emulator::run).kind, "clean");
        EXPECT_EQ(turned.output(), plain.output()) << c.name;
        EXPECT_EQ(turned.lse(), plain.lse()) << c.name;
        ++compared;
    }
    EXPECT_EQ(compared, 8);
}

// Jobs split in any number of parts: outputs near those of whole jobs, the same ones in every schedule, and nothing unordered.
TEST(Kernels, SplitTheirLastJobs) {
    int kernels = 0;
    for (const Case& family_case : family_cases()) {
        const KernelConfig& k = planner::kernel_at(family_case.variant);
        if (!k.splits) continue;
        const int blocks = ceil_div(family_case.kv_lens[0], k.tile_n);
        for (const auto& [split_jobs, parts] : {std::pair{1, 2}, std::pair{2, 2}, std::pair{4, 3}, std::pair{3, blocks}}) {
            // FP16's differ from BF16's in a type alone.
            if (family_case.f16 && split_jobs < 3) continue;
            Case c = family_case;
            c.split_jobs = split_jobs;
            c.parts = parts;
            c.blocks = 1 + split_jobs;
            Workload work(c, 1);
            ASSERT_GT(work.plan().split_jobs, 0) << c.name;
            std::vector<std::uint8_t> output;
            std::vector<float> lse;
            for (const u64 seed : {1, 2, 3}) {
                const Outcome outcome = work.run({.seed = seed}, emulator::run);
                ASSERT_EQ(outcome.kind, "clean") << c.name << ", " << split_jobs << " jobs in " << parts << " parts, seed " << seed << ": "
                                                 << outcome.text;
                if (seed > 1) {
                    EXPECT_EQ(work.output(), output) << c.name;
                    EXPECT_EQ(work.lse(), lse) << c.name;
                }
                output = work.output();
                lse = work.lse();
            }
        }
        ++kernels;
    }
    EXPECT_EQ(kernels, 26);
}

// What the problems above have to be: long, of several tiles a block, with ragged ends; and of every family, class of head dimensions and mask.
TEST(Kernels, ProblemsReachEveryPhase) {
    std::set<std::tuple<Family, i32, Mask>> seen, wanted;
    for (const TileRow& row : kTiles)
        for (const Mask mask : kMasks)
            if (has_mask(row.family, mask)) wanted.emplace(row.family, row.head_dim, mask);
    for (const Case& c : family_cases()) {
        const KernelConfig& k = planner::kernel_at(c.variant);
        seen.emplace(k.family, k.head_dim, k.mask);
        const Geometry g = geometry(k);
        Workload work(c, 1);
        const auto spec = planner::make_launch(work.plan(), work.tensors());
        ASSERT_TRUE(spec) << spec.error().text();
        int tiles = 0;
        for (const int q : c.q_lens) tiles += ceil_div(q, g.tile_m);
        EXPECT_GE(tiles * c.heads, 2 * spec->grid) << c.name << ": tiles a block";
        EXPECT_GE(ceil_div(c.kv_lens[0], k.tile_n), 3 * k.stages * g.rings) << c.name << ": blocks of keys";
        EXPECT_NE(c.kv_lens[0] % k.tile_n, 0) << c.name;
        EXPECT_NE(c.q_lens[0] % g.tile_m, 0) << c.name;
    }
    EXPECT_EQ(seen, wanted);
}

TEST(Kernels, SeedsRepeatARunExactly) {
    Workload work(family_cases()[0], 1);
    const std::uint64_t steps = work.run({.seed = 3}, emulator::run).steps;
    EXPECT_EQ(work.run({.seed = 3}, emulator::run).steps, steps);
    EXPECT_NE(work.run({.seed = 4}, emulator::run).steps, steps);
}

}  // namespace
}  // namespace hopfill::testing
