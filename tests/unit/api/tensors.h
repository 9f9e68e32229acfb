// Well-formed tensors for tests to spoil.
#pragma once

#include <memory>
#include <vector>

#include "hopfill/hopfill.h"

namespace hopfill::testing {

// Zero-filled memory that lives as long as the object, behind views of it.
struct Tensors : AttentionTensors {
    std::vector<std::unique_ptr<std::vector<std::uint64_t>>> memory;

    TensorView add(DType dtype, std::initializer_list<std::int64_t> shape) {
        TensorView view = contiguous(nullptr, dtype, shape);
        // At least one word, and 16-byte aligned as the sm90 kernels need.
        memory.push_back(std::make_unique<std::vector<std::uint64_t>>(static_cast<std::size_t>(view.elements() * size_of(dtype)) / 8 + 4));
        auto address = reinterpret_cast<std::uintptr_t>(memory.back()->data());
        view.data = reinterpret_cast<void*>((address + 15) / 16 * 16);
        return view;
    }
};

struct Sizes {
    std::int64_t batch = 2, seq_q = 5, seq_kv = 7, heads = 4, kv_heads = 2, head_dim = 64;
};

inline Tensors dense(DType dtype = DType::bf16, const Sizes& s = {}) {
    Tensors t;
    t.q = t.add(dtype, {s.batch, s.seq_q, s.heads, s.head_dim});
    t.k = t.add(dtype, {s.batch, s.seq_kv, s.kv_heads, s.head_dim});
    t.v = t.add(dtype, {s.batch, s.seq_kv, s.kv_heads, s.head_dim});
    t.o = t.add(dtype, {s.batch, s.seq_q, s.heads, s.head_dim});
    return t;
}

inline Tensors packed(const std::vector<std::int32_t>& cu_q, const std::vector<std::int32_t>& cu_k, DType dtype = DType::bf16, const Sizes& s = {}) {
    Tensors t;
    t.q = t.add(dtype, {cu_q.back(), s.heads, s.head_dim});
    t.k = t.add(dtype, {cu_k.back(), s.kv_heads, s.head_dim});
    t.v = t.add(dtype, {cu_k.back(), s.kv_heads, s.head_dim});
    t.o = t.add(dtype, {cu_q.back(), s.heads, s.head_dim});
    const auto lengths = [&t](const std::vector<std::int32_t>& cu) {
        TensorView view = t.add(DType::i32, {static_cast<std::int64_t>(cu.size())});
        std::copy(cu.begin(), cu.end(), static_cast<std::int32_t*>(view.data));
        return view;
    };
    t.cu_seqlens_q = lengths(cu_q);
    t.cu_seqlens_k = lengths(cu_k);
    return t;
}

}  // namespace hopfill::testing
