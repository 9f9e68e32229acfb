// Tensors and contexts of several GPUs, with a driver that only answers (fake_driver.cpp).
#include <dlfcn.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tensors.h"

namespace hopfill {
namespace {

using testing::dense;
using ::testing::HasSubstr;
using testing::Tensors;

int& fake(const char* name) {
    void* library = dlopen("libcuda.so.1", RTLD_NOW);
    auto* found = library == nullptr ? nullptr : static_cast<int*>(dlsym(library, name));
    if (found == nullptr) throw std::runtime_error("libcuda.so.1 is not the tests' own");
    return *found;
}

class Devices : public ::testing::Test {
protected:
    // Tensors of that device.
    static Tensors on(int index) {
        Tensors t = dense();
        for (TensorView* view : {&t.q, &t.k, &t.v, &t.o}) view->device = {Device::Kind::cuda, index};
        return t;
    }
    // 16-bit queries on FP8 keys and values that are read often enough to be copied first.
    static Tensors mixed(std::int64_t head_dim) {
        Tensors t = dense(DType::bf16, {1, 4096, 4096, 2, 1, head_dim});
        t.k.dtype = t.v.dtype = DType::e4m3;
        for (TensorView* view : {&t.q, &t.k, &t.v, &t.o}) view->device = {Device::Kind::cuda, 0};
        return t;
    }
    // FP8 whose V is read often enough to be transposed once.
    static Tensors fp8(int device = 0) {
        Tensors t = dense(DType::bf16, {1, 8192, 8192, 8, 8, 256});
        t.q.dtype = t.k.dtype = t.v.dtype = DType::e4m3;
        for (TensorView* view : {&t.q, &t.k, &t.v, &t.o}) view->device = {Device::Kind::cuda, device};
        return t;
    }
    void SetUp() override { current() = launches() = fake("fake_scratch") = fake("fake_full") = fake("fake_no_words") = 0; }
    int& current() { return fake("fake_current"); }
    int& launches() { return fake("fake_launches"); }
    void expect_refused(const Result<void>& done, const char* text) {
        ASSERT_FALSE(done);
        EXPECT_EQ(done.error().code, Code::invalid_argument);
        EXPECT_EQ(done.error().argument, "q");
        EXPECT_THAT(done.error().message, HasSubstr(text));
        EXPECT_EQ(launches(), 0);
    }
};

TEST_F(Devices, TheCurrentOneComputes) {
    for (const int index : {0, 1}) {
        current() = index;
        const Result<void> done = attention(on(index));
        ASSERT_TRUE(done) << done.error().text();
        EXPECT_EQ(launches(), index + 1);
    }
    const Result<DeviceInfo> device = current_device();
    ASSERT_TRUE(device);
    EXPECT_EQ(device->sm_major, 9);
}

TEST_F(Devices, AnotherThanTheCurrentOneIsRefused) {
    expect_refused(attention(on(1)), "is on CUDA device 1 and the current context is of device 0");
    current() = 1;
    expect_refused(attention(on(0)), "is on CUDA device 0 and the current context is of device 1");
    const Tensors t = on(0);
    const Result<Plan> made = plan(*describe(t, {}), {}, Backend::sm90);
    ASSERT_TRUE(made);
    expect_refused(run(*made, t), "device 0 current first");
}

TEST_F(Devices, WithoutAContextTheFirstIsMadeCurrent) {
    current() = -1;
    EXPECT_TRUE(attention(on(0)));
    EXPECT_EQ(current(), 0);
    EXPECT_EQ(launches(), 1);
    launches() = 0;
    current() = -1;
    expect_refused(attention(on(1)), "is on CUDA device 1");
}

TEST_F(Devices, CopiesOfKeysAndValuesAreALaunchOfTheirOwnAndTheirMemoryIsGivenBack) {
    for (const std::int64_t head_dim : {128, 256}) {
        launches() = 0;
        const Result<void> done = attention(mixed(head_dim));
        ASSERT_TRUE(done) << done.error().text();
        EXPECT_EQ(launches(), 2);
        EXPECT_EQ(fake("fake_scratch"), 0) << "allocated less given back";
    }
}

TEST_F(Devices, WithoutScratchMemoryTheyAreConvertedInTheKernelOrRefused) {
    fake("fake_full") = 1;
    const Result<void> done = attention(mixed(128));
    ASSERT_TRUE(done) << done.error().text();
    EXPECT_EQ(launches(), 1);
    AttentionOptions invariant;
    invariant.batch_invariant = true;
    for (const Result<void>& refused : {attention(mixed(256)), attention(mixed(128), invariant)}) {
        ASSERT_FALSE(refused);
        EXPECT_EQ(refused.error().code, Code::device);
        EXPECT_EQ(refused.error().argument, "scratch");
        EXPECT_THAT(refused.error().message, HasSubstr("bytes of scratch memory cannot be had"));
    }
    EXPECT_THAT(attention(mixed(256)).error().message, HasSubstr(std::to_string(2 * 4096 * 256 * 2)));
    EXPECT_EQ(launches(), 1);
}

// The kernel that transposes V for each job gives the same bits, so that batch invariance forbids nothing.
TEST_F(Devices, ValuesAreTransposedOnceOrWithoutMemoryForThatForEachJob) {
    AttentionOptions invariant;
    invariant.batch_invariant = true;
    for (const AttentionOptions& options : {AttentionOptions{}, invariant}) {
        fake("fake_full") = launches() = 0;
        const Result<void> done = attention(fp8(), options);
        ASSERT_TRUE(done) << done.error().text();
        EXPECT_EQ(launches(), 1);
        EXPECT_EQ(fake("fake_scratch"), 0) << "allocated less given back";
        fake("fake_full") = 1;
        const Result<void> without = attention(fp8(), options);
        ASSERT_TRUE(without) << without.error().text();
        EXPECT_EQ(launches(), 2);
    }
}

// Nor for the words by which blocks count what is transposed: what could be allocated goes back. (The second device's words are not there yet.)
TEST_F(Devices, ValuesAreTransposedForEachJobWhereTheWordsThatCountCannotBeHad) {
    current() = 1;
    fake("fake_no_words") = 1;
    const Result<void> done = attention(fp8(1));
    ASSERT_TRUE(done) << done.error().text();
    EXPECT_EQ(launches(), 1);
    EXPECT_EQ(fake("fake_scratch"), 0);
}

// Jobs whose parts have no memory to leave their outputs in are done whole, by another kernel.
TEST_F(Devices, JobsAreSplitOrWithoutMemoryForThatDoneWhole) {
    Tensors t = dense(DType::bf16, {1, 100, 20000, 8, 2, 128});
    for (TensorView* view : {&t.q, &t.k, &t.v, &t.o}) view->device = {Device::Kind::cuda, 0};
    const Result<AttentionProblem> problem = describe(t, {});
    ASSERT_TRUE(problem) << problem.error().text();
    const Result<Plan> split = plan(*problem, DeviceInfo{}, Backend::sm90);
    ASSERT_TRUE(split) << split.error().text();
    ASSERT_GT(split->split_jobs, 0);
    const Result<void> done = attention(t);
    ASSERT_TRUE(done) << done.error().text();
    EXPECT_EQ(launches(), 1);
    EXPECT_EQ(fake("fake_scratch"), 0) << "allocated less given back";
    fake("fake_full") = 1;
    const Result<void> without = attention(t);
    ASSERT_TRUE(without) << without.error().text();
    EXPECT_EQ(launches(), 2);
}

TEST_F(Devices, OneThatDoesNotExistIsRefused) {
    const Result<void> done = attention(on(2));
    ASSERT_FALSE(done);
    EXPECT_THAT(done.error().text(), HasSubstr("CUDA device 2 does not exist; there are 2"));
}

TEST_F(Devices, TensorsOfTwoAreRefused) {
    Tensors t = on(0);
    t.k.device.index = 1;
    const Result<void> done = attention(t);
    ASSERT_FALSE(done);
    EXPECT_EQ(done.error().argument, "k");
    EXPECT_THAT(done.error().message, HasSubstr("is on CUDA device 1 and q on CUDA device 0"));
}

}  // namespace
}  // namespace hopfill
