#include <algorithm>
#include <atomic>
#include <bit>
#include <string>
#include <thread>

#include "cpu/backend.h"
#include "cpu/job.h"

namespace hopfill::cpu {
namespace {

// A thread costs some tens of microseconds to start: as much as this many multiply-adds.
constexpr std::int64_t kWorkPerThread = 2'000'000;

const void* at(const TensorView& t, std::int64_t offset) { return static_cast<const std::byte*>(t.data) + offset * size_of(t.dtype); }
void* at_mutable(const TensorView& t, std::int64_t offset) { return static_cast<std::byte*>(t.data) + offset * size_of(t.dtype); }

// The part of a scale that a (sequence, head) reads.
Scale scale_of(const TensorView& t, const ScaleLayout& s, std::int64_t block, std::int64_t sequence, std::int64_t head) {
    if (s.kind == ScaleKind::none) return {};
    const auto* data = static_cast<const float*>(t.data) + sequence * s.batch + head * s.head;
    return {data, 0, s.block, s.channel, s.kind == ScaleKind::block ? std::countr_zero(static_cast<std::uint64_t>(block)) : 0};
}

// Every job of the problem, the longest first.
std::vector<Job> make_jobs(const AttentionProblem& p, const AttentionTensors& t) {
    std::vector<Job> jobs;
    const std::size_t seq = p.packed ? 0 : 1, head = seq + 1;  // dimensions
    for (std::int64_t b = 0; b < p.batch; ++b) {
        Job job;
        std::int64_t q_begin = 0, kv_begin = 0;
        job.q_len = p.max_seqlen_q;
        job.kv_len = p.max_seqlen_kv;
        if (p.packed) {
            const auto* cu_q = static_cast<const std::int32_t*>(t.cu_seqlens_q.data);
            const auto* cu_k = static_cast<const std::int32_t*>(t.cu_seqlens_k.data);
            q_begin = cu_q[b];
            kv_begin = cu_k[b];
            job.q_len = cu_q[b + 1] - cu_q[b];
            job.kv_len = cu_k[b + 1] - cu_k[b];
        }
        job.dtype = p.dtype;
        job.kv_dtype = p.kv_dtype;
        job.v_transposed = p.v_transposed;
        job.out_dtype = p.out_dtype;
        job.group = p.heads / p.kv_heads;
        job.head_dim = p.head_dim;
        job.causal = p.causal;
        job.scale = static_cast<float>(p.scale);
        job.q_seq = t.q.strides[seq];
        job.q_head = t.q.strides[head];
        job.k_seq = t.k.strides[seq];
        job.v_seq = t.v.strides[p.v_transposed ? head : seq];
        job.o_seq = t.o.strides[seq];
        job.o_head = t.o.strides[head];
        const auto first = [&](const TensorView& v, std::int64_t token, std::int64_t h) {
            return (p.packed ? 0 : b * v.strides[0]) + token * v.strides[seq] + h * v.strides[head];
        };
        for (std::int64_t g = 0; g < p.kv_heads; ++g) {
            job.q = at(t.q, first(t.q, q_begin, g * job.group));
            job.k = at(t.k, first(t.k, kv_begin, g));
            job.v = at(t.v, p.v_transposed ? first(t.v, g, 0) + kv_begin : first(t.v, kv_begin, g));
            job.q_scale = scale_of(t.q_scale, p.q_scale, p.scale_block, b, p.q_scale.kind == ScaleKind::head ? g * job.group : g);
            job.k_scale = scale_of(t.k_scale, p.k_scale, p.scale_block, b, g);
            job.v_scale = scale_of(t.v_scale, p.v_scale, p.scale_block, b, g);
            if (p.q_scale.kind == ScaleKind::head) job.q_scale.head = p.q_scale.head;
            job.o = at_mutable(t.o, first(t.o, q_begin, g * job.group));
            if (t.lse.present()) {
                // [heads, tokens] or [batch, heads, seq]
                job.lse_head = t.lse.strides[p.packed ? 0 : 1];
                job.lse_seq = t.lse.strides[p.packed ? 1 : 2];
                const std::int64_t offset = (p.packed ? q_begin * job.lse_seq : b * t.lse.strides[0]) + g * job.group * job.lse_head;
                job.lse = static_cast<float*>(t.lse.data) + offset;
            }
            for (job.first_row = 0; job.first_row < job.q_len * job.group; job.first_row += kRows) {
                job.rows = std::min(kRows, job.q_len * job.group - job.first_row);
                jobs.push_back(job);
            }
        }
    }
    std::stable_sort(jobs.begin(), jobs.end(), [](const Job& a, const Job& b) {
        return a.rows * a.visible(a.first_row + a.rows - 1) > b.rows * b.visible(b.first_row + b.rows - 1);
    });
    return jobs;
}

}  // namespace

Result<void> check_lengths(const TensorView& cu, const char* name, std::int64_t batch, std::int64_t tokens, std::int64_t longest) {
    const auto bad = [name](std::string message) { return Error{Code::invalid_argument, name, std::move(message)}; };
    if (cu.data == nullptr || cu.dtype != DType::i32 || cu.rank != 1 || cu.shape[0] != batch + 1) {
        return bad("must be an i32 tensor of batch + 1 = " + std::to_string(batch + 1) + " elements");
    }
    const auto* x = static_cast<const std::int32_t*>(cu.data);
    if (x[0] != 0) return bad("starts at " + std::to_string(x[0]) + "; must start at 0");
    for (std::int64_t i = 0; i < batch; ++i) {
        if (x[i + 1] < x[i]) {
            return bad("goes from " + std::to_string(x[i]) + " to " + std::to_string(x[i + 1]) + " at index " + std::to_string(i + 1) +
                       "; must not decrease");
        }
        if (x[i + 1] - x[i] > longest) {
            return bad("sequence " + std::to_string(i) + " has " + std::to_string(x[i + 1] - x[i]) + " tokens; max_seqlen allows " +
                       std::to_string(longest));
        }
    }
    if (x[batch] > tokens) return bad("ends at " + std::to_string(x[batch]) + "; the tensor has " + std::to_string(tokens) + " tokens");
    return {};
}

Result<void> attention(const AttentionProblem& p, const AttentionTensors& t) {
    for (const auto& [dtype, name] : {std::pair{p.dtype, "q"}, std::pair{p.kv_dtype, "k"}, std::pair{p.out_dtype, "o"}}) {
        if (dtype == DType::i32) return Error{Code::unsupported, name, "dtype i32; the cpu backend takes f32, f16, bf16 and e4m3"};
    }
    if (p.kv_heads <= 0 || p.heads % p.kv_heads != 0) {
        return Error{Code::invalid_argument, "k", std::to_string(p.kv_heads) + " heads; must divide q's " + std::to_string(p.heads)};
    }
    if (p.packed) {
        if (auto r = check_lengths(t.cu_seqlens_q, "cu_seqlens_q", p.batch, p.tokens_q, p.max_seqlen_q); !r) return r;
        if (auto r = check_lengths(t.cu_seqlens_k, "cu_seqlens_k", p.batch, p.tokens_kv, p.max_seqlen_kv); !r) return r;
    }
    const std::vector<Job> jobs = make_jobs(p, t);
    std::int64_t work = 0;
    for (const Job& job : jobs) work += job.rows * job.visible(job.first_row + job.rows - 1) * job.head_dim * 2;
    std::atomic<std::size_t> next{0};
    const auto worker = [&] {
        std::vector<float> workspace;
        for (std::size_t i = next++; i < jobs.size(); i = next++) attend(jobs[i], workspace);
    };
    const std::int64_t cores = std::max(1u, std::thread::hardware_concurrency());
    const std::int64_t n = std::min({cores, std::ssize(jobs), work / kWorkPerThread + 1});
    std::vector<std::thread> threads;
    for (std::int64_t i = 1; i < n; ++i) threads.emplace_back(worker);
    worker();
    for (std::thread& thread : threads) thread.join();
    return {};
}

}  // namespace hopfill::cpu
