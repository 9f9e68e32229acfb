// plan() and names.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tensors.h"

namespace hopfill {
namespace {

using testing::dense;
using ::testing::HasSubstr;

AttentionProblem problem() { return *describe(dense(), {}); }

TEST(Names, AreInverses) {
    for (const Backend b : {Backend::automatic, Backend::sm90, Backend::cpu, Backend::emulated, Backend::oracle}) {
        const Result<Backend> back = backend_from_name(name_of(b));
        ASSERT_TRUE(back);
        EXPECT_EQ(*back, b);
    }
    const Result<Backend> none = backend_from_name("gpu");
    ASSERT_FALSE(none);
    EXPECT_EQ(none.error().argument, "backend");
    EXPECT_THAT(none.error().message, HasSubstr("\"gpu\""));
}

TEST(Plan, IsPureComparableAndPrintable) {
    const Result<Plan> a = plan(problem(), {}, Backend::sm90), b = plan(problem(), {}, Backend::sm90);
    ASSERT_TRUE(a && b) << a.error().text();
    EXPECT_EQ(*a, *b);
    EXPECT_THAT(a->to_string(), HasSubstr(a->kernel));
    DeviceInfo small;
    small.num_sms = 1;
    const Result<Plan> c = plan(problem(), small, Backend::sm90);
    ASSERT_TRUE(c);
    EXPECT_EQ(c->grid, 1);
    EXPECT_FALSE(*c == *a);
}

TEST(Plan, AutomaticGoesByTheDevice) {
    DeviceInfo ampere;
    ampere.sm_major = 8;
    EXPECT_EQ(plan(problem(), {})->backend, Backend::sm90);
    EXPECT_EQ(plan(problem(), ampere)->backend, Backend::cpu);
    const Result<Plan> refused = plan(problem(), ampere, Backend::sm90);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, Code::unsupported);
    EXPECT_THAT(refused.error().message, HasSubstr("9.0"));
}

TEST(Plan, EmulatedIsTheSameKernel) {
    const Result<Plan> real = plan(problem(), {}, Backend::sm90), emulated = plan(problem(), {}, Backend::emulated);
    ASSERT_TRUE(real && emulated);
    EXPECT_EQ(real->kernel, emulated->kernel);
    EXPECT_EQ(emulated->backend, Backend::emulated);
}

TEST(Plan, HostBackendsHaveNoKernel) {
    const Result<Plan> p = plan(problem(), {}, Backend::cpu);
    ASSERT_TRUE(p);
    EXPECT_EQ(p->kernel, "");
    EXPECT_EQ(p->grid, 0);
    EXPECT_THAT(p->to_string(), HasSubstr("cpu"));
}

TEST(Plan, RefusesProblemsMadeByHandThatContradictThemselves) {
    const auto refuse = [](auto spoil, const char* argument) {
        AttentionProblem p = problem();
        spoil(p);
        for (const Backend backend : {Backend::sm90, Backend::cpu, Backend::oracle, Backend::emulated}) {
            const Result<Plan> made = plan(p, {}, backend);
            ASSERT_FALSE(made) << argument;
            EXPECT_EQ(made.error().argument, argument);
        }
    };
    refuse([](AttentionProblem& p) { p.heads = 0; }, "heads");
    refuse([](AttentionProblem& p) { p.kv_heads = 3; }, "heads");
    refuse([](AttentionProblem& p) { p.batch = -1; }, "batch");
    refuse([](AttentionProblem& p) { p.tokens_q = 11; }, "tokens_q");
    refuse([](AttentionProblem& p) { p.tokens_kv = std::int64_t{1} << 31; }, "tokens_kv");
    refuse([](AttentionProblem& p) { p.head_dim = 0; }, "head_dim");
    refuse([](AttentionProblem& p) { p.scale = 1e300; }, "scale");
    refuse([](AttentionProblem& p) { p.k.seq = -1; }, "k");
}

TEST(Plan, CpuRefusesEightBits) {
    const Result<AttentionProblem> p = describe(dense(DType::e4m3), {});
    ASSERT_FALSE(p);  // o would be e4m3
    testing::Tensors t = dense(DType::e4m3);
    t.o = t.add(DType::bf16, {2, 5, 4, 64});
    const Result<AttentionProblem> good = describe(t, {});
    ASSERT_TRUE(good) << good.error().text();
    const Result<Plan> refused = plan(*good, {}, Backend::cpu);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, Code::unsupported);
}

}  // namespace
}  // namespace hopfill
