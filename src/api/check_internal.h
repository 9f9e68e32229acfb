// Shared by the files of the checking library.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "hopfill/check.h"

namespace hopfill::check {

// SplitMix64 (Steele, Lea, Flood 2014): integer only, so that cases have the same bits with every compiler and libm.
class Rng {
public:
    explicit Rng(std::uint64_t seed) : state_(seed) {}
    template <class... Rest>
    Rng(std::uint64_t seed, std::uint64_t next, Rest... rest)
        : Rng(Rng(seed).bits() ^ (next * 0x9e3779b97f4a7c15ull + 0x632be59bd9b4e019ull), rest...) {}

    std::uint64_t bits() {
        std::uint64_t z = state_ += 0x9e3779b97f4a7c15ull;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
        return z ^ (z >> 31);
    }
    // lowest <= result <= highest
    std::int64_t between(std::int64_t lowest, std::int64_t highest) {
        return lowest + static_cast<std::int64_t>(bits() % static_cast<std::uint64_t>(highest - lowest + 1));
    }
    bool one_in(std::int64_t n) { return between(1, n) == 1; }
    template <class T, std::size_t N>
    T pick(const std::array<T, N>& from) {
        return from[static_cast<std::size_t>(between(0, N - 1))];
    }
    // Near enough N(0, 1), and exact arithmetic: the sum of eight uniform 16-bit numbers (Irwin-Hall), up to 4.9 standard deviations.
    double gaussian() {
        std::int64_t sum = 0;
        for (int half = 0; half < 2; ++half) {
            for (std::uint64_t b = bits(), i = 0; i < 4; ++i, b >>= 16) sum += static_cast<std::int64_t>(b & 0xffff);
        }
        return static_cast<double>(sum - 4 * 65535) * (1.0 / 53509.3);
    }

private:
    std::uint64_t state_;
};

// A tensor with guard bytes on both sides, on the host and, while a case runs, in the target's memory.
struct Buffer {
    std::vector<std::byte> bytes;
    std::size_t base = 0;    // of element 0, in bytes from the start
    void* target = nullptr;  // where `bytes` were uploaded to

    [[nodiscard]] TensorView on_target(TensorView host, Device device) const {
        host.data = static_cast<std::byte*>(target) + base;
        host.device = device;
        return host;
    }
};

// A case made real.
struct Built {
    AttentionProblem problem;
    AttentionOptions options;
    AttentionTensors host;  // o and lse show the outputs as downloaded
    std::vector<std::int64_t> q_lens, kv_lens;
    std::vector<std::int64_t> q_begin, kv_begin;  // first row of each sequence; dense: 0
    Buffer q, k, v, o, lse, cu_q, cu_k, q_scale, k_scale, v_scale;
};
Built build(const Case& c, int threads);

// Offset in elements of (sequence, token of the sequence, head, 0) in q, k, v or o.
inline std::int64_t offset(const TensorView& t, std::int64_t sequence, std::int64_t begin, std::int64_t token, std::int64_t head) {
    return t.rank == 3 ? (begin + token) * t.strides[0] + head * t.strides[1] : sequence * t.strides[0] + token * t.strides[1] + head * t.strides[2];
}
inline std::int64_t lse_offset(const TensorView& t, std::int64_t sequence, std::int64_t begin, std::int64_t token, std::int64_t head) {
    return t.rank == 2 ? head * t.strides[0] + (begin + token) * t.strides[1] : sequence * t.strides[0] + head * t.strides[1] + token * t.strides[2];
}

// Of an element of v, which may be transposed.
inline std::int64_t value_offset(const Built& b, std::int64_t sequence, std::int64_t begin, std::int64_t token, std::int64_t head,
                                 std::int64_t channel) {
    if (!b.problem.v_transposed) return offset(b.host.v, sequence, begin, token, head) + channel;
    return sequence * b.problem.v.batch + head * b.problem.v.head + channel * b.problem.v.seq + begin + token;
}

// What an element of an FP8 tensor is multiplied by; `head` is a query head for q, else a KV head.
float multiplier(const Built& b, const TensorView& scale, const ScaleLayout& layout, std::int64_t sequence, std::int64_t head, std::int64_t token,
                 std::int64_t channel);

// Bytes that no output element may keep: a NaN in f16, bf16 and f32 whose payload no computation makes; in e4m3 the NaN that conversions do not give.
constexpr std::array<std::byte, 2> poison_of(DType t) {
    return t == DType::e4m3 ? std::array{std::byte{0xff}, std::byte{0xff}} : std::array{std::byte{0xa5}, std::byte{0xff}};
}
void poison(Buffer& b, DType dtype);

// What an exact online softmax in the same formats gives for one row, and the standard deviation that a correct kernel's rounding has there.
struct Simulated {
    std::vector<float> o;  // rounded to out_dtype
    std::vector<double> sigma;
    float lse = 0;
    double lse_sigma = 0;
};
std::vector<Simulated> simulate(const Built& b, std::int64_t sequence, std::int64_t head, const std::vector<std::int64_t>& queries);

// Rows of a (sequence, head) that the oracle computes: all up to 2048 keys, else 64 seeded ones, the first, the last and tile edges among them.
std::vector<std::int64_t> judged_rows(std::int64_t q_len, std::int64_t kv_len, std::uint64_t seed);

// Compares what is in b.host.o and b.host.lse with the oracle, and every other byte with the poison.
void judge(const Case& c, const Built& b, const RunOptions& options, Outcome& outcome);

// Runs f(0) ... f(n - 1), on `threads` threads (0: all cores).
void parallel(std::int64_t n, int threads, const std::function<void(std::int64_t)>& f);

}  // namespace hopfill::check
