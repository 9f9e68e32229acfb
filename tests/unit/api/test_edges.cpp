// Empty and extreme problems, and batches that change no sequence's bits, on every backend of the host.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <string>

#include "hopfill/check.h"
#include "tensors.h"

namespace hopfill {
namespace {

using testing::dense;
using testing::packed;
using testing::Tensors;

constexpr Backend kBackends[] = {Backend::cpu, Backend::oracle, Backend::emulated};

void expect_right(const char* text) {
    for (const Backend backend : kBackends) {
        check::Target target(backend);
        const check::Outcome outcome = check::run_case(*check::parse_case(text), target);
        EXPECT_EQ(outcome.status, check::Outcome::Status::passed) << name_of(backend) << ", " << text << ": " << outcome.text;
    }
}

TEST(Edges, DenseBatchesWithoutKeysOrQueries) {
    for (const std::string mask : {"", " causal"}) {
        for (const char* lens : {" q=2x9 kv=2x0", " q=3x0 kv=3x17", " q=2x0 kv=2x0", " q=2x70 kv=2x1", " q=3x1 kv=3x130"})
            expect_right(("bf16 d64 h4/2" + mask + lens + " input=gaussian lse seed=3").c_str());
    }
}

// A sequence without keys has NaN scales: its rows are zeros all the same, masked or not, folded or not, with a block's scale or a sequence's.
TEST(Edges, Fp8ScalesOfSequencesWithoutTokens) {
    for (const char* text : {"e4m3 d64 h2/2 out=bf16 packed loose q=0,195,1 kv=1,0,1 tail=65 vs=sequence input=gaussian lse layout=93630 seed=1",
                             "e4m3 d128 h2/1 causal packed q=70,200,0 kv=0,0,3 qs=sequence ks=sequence vs=sequence input=gaussian lse seed=2",
                             "e4m3 d128 h2/1 packed q=3,90 kv=0,190 qs=block ks=block vs=block block=64 input=gaussian lse seed=3",
                             "e4m3 d256 h2/1 causal packed q=9,65 kv=0,130 ks=sequence vs=sequence vt input=gaussian lse seed=4",
                             "bf16 kv_dtype=e4m3 d128 h2/1 packed q=9,65 kv=0,130 ks=sequence vs=sequence input=gaussian lse seed=5"})
        expect_right(text);
}

TEST(Edges, AScaleOfZeroIsAMean) {
    for (const char* text : {"f16 d128 h2/1 causal q=2x40 kv=2x200 scale=0 input=gaussian lse seed=4",
                             "bf16 d64 h2/2 q=2x40 kv=2x200 scale=0 input=large lse seed=5",
                             "bf16 d64 h2/2 causal packed q=20,3 kv=20,150 scale=0 input=gaussian lse seed=6"})
        expect_right(text);
}

// Tokens that belong to no sequence, and no sequence at all: nothing is written.
TEST(Edges, TokensWithoutASequenceAreLeftAlone) {
    for (const Backend backend : kBackends) {
        Tensors t = packed({0, 9}, {0, 12});
        t.lse = t.add(DType::f32, {4, 9});
        t.cu_seqlens_q.shape[0] = t.cu_seqlens_k.shape[0] = 1;
        const std::size_t o_bytes = 9 * 4 * 64 * 2, lse_bytes = 4 * 9 * 4;
        std::memset(t.o.data, 0xa5, o_bytes);
        std::memset(t.lse.data, 0xa5, lse_bytes);
        AttentionOptions options;
        options.backend = backend;
        const Result<void> done = attention(t, options);
        ASSERT_TRUE(done) << name_of(backend) << ": " << done.error().text();
        EXPECT_EQ(std::string(static_cast<char*>(t.o.data), o_bytes), std::string(o_bytes, '\xa5')) << name_of(backend);
        EXPECT_EQ(std::string(static_cast<char*>(t.lse.data), lse_bytes), std::string(lse_bytes, '\xa5')) << name_of(backend);
    }
}

// Bits of finite numbers of either sign, the same for the same place of a tensor.
void fill(const TensorView& t, std::int64_t elements, std::uint32_t seed) {
    for (std::int64_t i = 0; i < elements; ++i) {
        seed = seed * 1664525 + 1013904223;
        static_cast<std::uint16_t*>(t.data)[i] = static_cast<std::uint16_t>((seed >> 16 & 0x8fff) | 0x3000);  // f16 of 2^-3 to 2
    }
}

// o and lse of the first sequence of a dense batch, as bytes.
std::string first_of_dense(Backend backend, const testing::Sizes& s, bool causal) {
    Tensors t = dense(DType::f16, s);
    t.lse = t.add(DType::f32, {s.batch, s.heads, s.seq_q});
    const std::int64_t rows = s.seq_q * s.heads * s.head_dim, keys = s.seq_kv * s.kv_heads * s.head_dim;
    fill(t.q, s.batch * rows, 1);
    fill(t.k, s.batch * keys, 2);
    fill(t.v, s.batch * keys, 3);
    AttentionOptions options;
    options.backend = backend;
    options.causal = causal;
    options.batch_invariant = true;
    const Result<void> done = attention(t, options);
    EXPECT_TRUE(done) << done.error().text();
    return std::string(static_cast<char*>(t.o.data), static_cast<std::size_t>(rows * 2)) +
           std::string(static_cast<char*>(t.lse.data), static_cast<std::size_t>(s.heads * s.seq_q * 4));
}

// o of a sequence of 130 queries and 200 keys among others.
std::string among(Backend backend, std::int64_t heads, const std::vector<std::int32_t>& q_lens, const std::vector<std::int32_t>& kv_lens,
                  std::size_t index) {
    std::vector<std::int32_t> cu_q{0}, cu_k{0};
    for (const std::int32_t n : q_lens) cu_q.push_back(cu_q.back() + n);
    for (const std::int32_t n : kv_lens) cu_k.push_back(cu_k.back() + n);
    Tensors t = packed(cu_q, cu_k, DType::f16, {1, 1, 1, heads, heads, 64});
    const auto part = [&](const TensorView& view, const std::vector<std::int32_t>& cu, std::size_t i) {
        TensorView of = view;
        of.data = static_cast<char*>(view.data) + cu[i] * heads * 64 * 2;
        return of;
    };
    for (std::size_t i = 0; i < q_lens.size(); ++i) {
        const std::uint32_t seed = i == index ? 0 : static_cast<std::uint32_t>(10 * (i + 1));
        fill(part(t.q, cu_q, i), q_lens[i] * heads * 64, seed + 1);
        fill(part(t.k, cu_k, i), kv_lens[i] * heads * 64, seed + 2);
        fill(part(t.v, cu_k, i), kv_lens[i] * heads * 64, seed + 3);
    }
    AttentionOptions options;
    options.backend = backend;
    options.causal = true;
    options.batch_invariant = true;
    const Result<void> done = attention(t, options);
    EXPECT_TRUE(done) << done.error().text();
    return {static_cast<char*>(part(t.o, cu_q, index).data), static_cast<std::size_t>(q_lens[index] * heads * 64 * 2)};
}

TEST(Edges, BatchInvariantSequencesHaveTheSameBitsAloneAndInABatch) {
    for (const Backend backend : {Backend::cpu, Backend::emulated}) {
        // 20 heads of 3 tiles: alone fewer than an H100's multiprocessors, in a batch of three more.
        for (const bool causal : {false, true}) {
            const std::string alone = first_of_dense(backend, {1, 130, 200, 20, 10, 64}, causal);
            EXPECT_NE(alone.find_first_not_of('\0'), std::string::npos);
            EXPECT_EQ(alone, first_of_dense(backend, {3, 130, 200, 20, 10, 64}, causal)) << name_of(backend);
        }
        const std::string alone = among(backend, 20, {130}, {200}, 0);
        EXPECT_EQ(alone, among(backend, 20, {130, 7, 200}, {200, 90, 0}, 0)) << name_of(backend);
        EXPECT_EQ(alone, among(backend, 20, {1, 0, 130, 65, 64}, {300, 5, 200, 65, 1}, 2)) << name_of(backend);
    }
}

}  // namespace
}  // namespace hopfill
