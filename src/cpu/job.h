// A unit of work of the host backend: query rows of one (sequence, KV head), against all of its keys.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "hopfill/tensor.h"

namespace hopfill::cpu {

constexpr std::int64_t kRows = 240;   // of a job: K and V are packed once for as many; a multiple of every strip height
constexpr std::int64_t kBlock = 128;  // keys packed at a time: one block of K and one of V stay in the second-level cache

// The scale of an FP8 tensor for one (sequence, KV head): data null is 1. Blocks of 2^shift tokens.
struct Scale {
    const float* data = nullptr;
    std::int64_t head = 0, block = 0, channel = 0;  // element strides; head: of the query heads of a group
    int shift = 0;

    // Of a token, all channels but for a scale by channel.
    [[nodiscard]] float of(std::int64_t group_head, std::int64_t token) const {
        return data == nullptr || channel != 0 ? 1 : data[group_head * head + (token >> shift) * block];
    }
};

// Rows are (query, head of the group) pairs, head fastest, so that the query heads of a KV head share its packed keys and so that keys visible do not
// decrease from row to row. Pointers are those of (sequence, first token, first head of the group); strides in elements, of tokens and heads.
struct Job {
    DType dtype = DType::f32, kv_dtype = DType::f32, out_dtype = DType::f32;
    const void* q = nullptr;
    const void* k = nullptr;
    const void* v = nullptr;
    void* o = nullptr;
    float* lse = nullptr;  // or null
    Scale q_scale, k_scale, v_scale;
    bool v_transposed = false;  // v_seq is the stride of channels, tokens lie side by side
    std::int64_t q_seq = 0, q_head = 0, k_seq = 0, v_seq = 0, o_seq = 0, o_head = 0, lse_seq = 0, lse_head = 0;
    std::int64_t q_len = 0, kv_len = 0, group = 1, head_dim = 0;
    bool causal = false;
    float scale = 1;
    std::int64_t first_row = 0, rows = 0;

    // Keys that a row sees: a prefix.
    [[nodiscard]] std::int64_t visible(std::int64_t row) const {
        if (!causal) return kv_len;
        const std::int64_t keys = row / group + kv_len - q_len + 1;
        return keys < 0 ? 0 : keys > kv_len ? kv_len : keys;
    }
};

// Computes a job. `workspace` is a thread's own: it grows to what the job needs and is used again.
void attend(const Job& job, std::vector<float>& workspace);

}  // namespace hopfill::cpu
