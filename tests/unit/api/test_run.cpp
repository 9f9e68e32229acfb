// run() and attention(): dispatch, agreement of plan and tensors, plans that are kept.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <thread>
#include <vector>

#include "hopfill/check.h"
#include "tensors.h"

namespace hopfill {
namespace {

using testing::dense;
using ::testing::HasSubstr;
using testing::packed;
using testing::Tensors;

// Two queries that tell two keys apart: known results.
struct Tiny {
    Tensors t = dense(DType::f32, {1, 2, 2, 1, 1, 8});
    Tiny() {
        auto* q = static_cast<float*>(t.q.data);
        auto* k = static_cast<float*>(t.k.data);
        auto* v = static_cast<float*>(t.v.data);
        q[0] = q[8] = 1;
        k[0] = std::log(3.0f);
        for (int i = 0; i < 8; ++i) v[i] = 4, v[8 + i] = 8;
        t.lse = t.add(DType::f32, {1, 1, 2});
    }
    [[nodiscard]] float o(int i) const { return static_cast<const float*>(t.o.data)[i]; }
    [[nodiscard]] float lse(int i) const { return static_cast<const float*>(t.lse.data)[i]; }
};

TEST(Run, HostBackendsGiveTheSoftmax) {
    for (const Backend backend : {Backend::cpu, Backend::oracle, Backend::automatic}) {
        Tiny tiny;
        AttentionOptions options;
        options.scale = 1;
        options.backend = backend;
        const Result<void> done = attention(tiny.t, options);
        ASSERT_TRUE(done) << done.error().text();
        // Logits ln 3 and 0: weights 3/4 and 1/4.
        EXPECT_NEAR(tiny.o(0), 5, 1e-6);
        EXPECT_NEAR(tiny.o(8), 5, 1e-6);
        EXPECT_NEAR(tiny.lse(0), std::log(4.0), 1e-6);

        options.causal = true;
        ASSERT_TRUE(attention(tiny.t, options));
        EXPECT_NEAR(tiny.o(0), 4, 1e-6);
        EXPECT_NEAR(tiny.lse(0), std::log(3.0), 1e-6);
        EXPECT_NEAR(tiny.o(8), 5, 1e-6);
    }
}

TEST(Run, RefusesTensorsThatAreNotThePlans) {
    Tensors t = dense();
    const Result<Plan> made = plan(*describe(t, {}), {}, Backend::cpu);
    ASSERT_TRUE(made);
    EXPECT_TRUE(run(*made, t));

    const auto refuse = [&](const Tensors& other, const char* argument) {
        const Result<void> done = run(*made, other);
        ASSERT_FALSE(done);
        EXPECT_EQ(done.error().argument, argument);
    };
    refuse(dense(DType::f16), "q");
    refuse(dense(DType::bf16, {3, 5, 7, 4, 2, 64}), "batch");
    refuse(dense(DType::bf16, {2, 6, 7, 4, 2, 64}), "tokens_q");
    refuse(dense(DType::bf16, {2, 5, 8, 4, 2, 64}), "tokens_kv");
    refuse(dense(DType::bf16, {2, 5, 7, 8, 2, 64}), "heads");
    refuse(dense(DType::bf16, {2, 5, 7, 4, 4, 64}), "kv_heads");
    refuse(packed({0, 5, 10}, {0, 7, 14}), "q");
    Tensors with_lse = dense();
    with_lse.lse = with_lse.add(DType::f32, {2, 4, 5});
    refuse(with_lse, "lse");
    Tensors strided = dense(DType::bf16, {2, 5, 7, 8, 2, 64});
    for (TensorView* view : {&strided.q, &strided.o}) view->shape[2] = 4;
    refuse(strided, "q.strides");
}

TEST(Run, RefusesTensorsOnTheWrongDevice) {
    Tensors t = dense();
    const Result<Plan> made = plan(*describe(t, {}), {}, Backend::sm90);
    ASSERT_TRUE(made);
    const Result<void> on_host = run(*made, t);
    ASSERT_FALSE(on_host);
    EXPECT_EQ(on_host.error().argument, "q");
    EXPECT_THAT(on_host.error().message, HasSubstr("host"));

    for (TensorView* view : {&t.q, &t.k, &t.v, &t.o}) view->device.kind = Device::Kind::cuda;
    const Result<Plan> cpu = plan(*describe(t, {}), {}, Backend::cpu);
    ASSERT_TRUE(cpu);
    const Result<void> on_gpu = run(*cpu, t);
    ASSERT_FALSE(on_gpu);
    EXPECT_THAT(on_gpu.error().message, HasSubstr("GPU"));
}

TEST(Run, HostBackendsRefuseBadLengths) {
    for (const std::vector<std::int32_t>& bad : {std::vector<std::int32_t>{1, 3, 10}, {0, 8, 3}, {0, 3, 11}}) {
        for (const Backend backend : {Backend::cpu, Backend::oracle}) {
            Tensors t = packed({0, 3, 10}, {0, 1, 5});
            std::copy(bad.begin(), bad.end(), static_cast<std::int32_t*>(t.cu_seqlens_q.data));
            AttentionOptions options;
            options.backend = backend;
            const Result<void> done = attention(t, options);
            ASSERT_FALSE(done);
            EXPECT_EQ(done.error().argument, "cu_seqlens_q");
            EXPECT_EQ(done.error().code, Code::invalid_argument);
        }
    }
}

TEST(Run, PlanWithoutBackendIsRefused) {
    Tensors t = dense();
    Plan empty;
    empty.problem = *describe(t, {});
    const Result<void> done = run(empty, t);
    ASSERT_FALSE(done);
    EXPECT_EQ(done.error().argument, "plan");
}

TEST(Run, LoadRefusesPlansOfNoKernel) {
    Tensors t = dense();
    Plan made = *plan(*describe(t, {}), {}, Backend::sm90);
    for (const int variant : {-1, 100'000}) {
        made.variant = variant;
        const Result<void> loaded = load(made);
        ASSERT_FALSE(loaded);
        EXPECT_EQ(loaded.error().argument, "plan");
    }
    EXPECT_TRUE(load(*plan(*describe(t, {}), {}, Backend::cpu)));
}

TEST(Run, EmulateTakesEmulatedPlansOnly) {
    Tensors t = dense();
    const Result<Plan> made = plan(*describe(t, {}), {}, Backend::cpu);
    const Result<std::uint64_t> steps = emulate(*made, t, 1);
    ASSERT_FALSE(steps);
    EXPECT_EQ(steps.error().argument, "plan");
}

TEST(Run, EmulatorSeedFromTheEnvironmentMustBeANumber) {
    Tensors t = dense();
    const Result<Plan> made = plan(*describe(t, {}), {}, Backend::emulated);
    ASSERT_TRUE(made);
    ::setenv("HOPFILL_EMULATOR_SEED", "seven", 1);
    const Result<void> done = run(*made, t);
    ::unsetenv("HOPFILL_EMULATOR_SEED");
    ASSERT_FALSE(done);
    EXPECT_EQ(done.error().argument, "HOPFILL_EMULATOR_SEED");
}

TEST(Run, ManyThreadsShareTheKeptPlans) {
    std::vector<std::thread> threads;
    std::array<int, 4> failures{};
    for (std::size_t i = 0; i < failures.size(); ++i) {
        threads.emplace_back([&failures, i] {
            for (int round = 0; round < 20; ++round) {
                Tensors t = dense(DType::f32, {1, 1 + round % 5, 3, 2, 1, 8});
                if (!attention(t)) ++failures[i];
            }
        });
    }
    for (std::thread& thread : threads) thread.join();
    EXPECT_THAT(failures, ::testing::Each(0));
}

TEST(Time, HostBackends) {
    Tensors t = dense();
    const Result<Plan> made = plan(*describe(t, {}), {}, Backend::cpu);
    const Result<Timing> timing = time(*made, t, 3);
    ASSERT_TRUE(timing);
    EXPECT_GT(timing->us, 0);
    EXPECT_FALSE(time(*made, t, 0));
    EXPECT_EQ(flops(made->problem), 4.0 * 2 * 4 * 5 * 7 * 64);
}

TEST(InfoTest, SaysWhatIsHere) {
    const Info found = info();
    EXPECT_FALSE(found.version.empty());
    EXPECT_FALSE(found.driver.empty());
    EXPECT_FALSE(found.nvrtc.empty());
    EXPECT_THAT(found.backends, ::testing::IsSupersetOf({Backend::cpu, Backend::emulated, Backend::oracle}));
    EXPECT_EQ(found.gpu.has_value(), current_device().ok());
}

}  // namespace
}  // namespace hopfill
