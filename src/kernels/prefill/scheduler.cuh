// The main family's producers: one warp loads, another finds out what comes next. A job's number is drawn and decoded in some 2,000 clocks; the loads
// of the next job's first K wait for nothing but that where prompts are short. See SCHEDULE.md.
#pragma once

#include "prefill/producer.cuh"

namespace hopfill {

// What a job needs to be loaded, beside its rows.
template <KernelConfig C>
HOPFILL_INLINE void place_keys(Job& job, const typename Producer<C>::Blocks& b) {
    job.kv_head = b.kv_head;
    job.kv_row = b.at.row;
    job.kv_c3 = b.at.c3;
    job.first_block = b.first;
}

// One warp: finds the block's second job, and each one behind it, when the loader asks for it, and describes it.
template <KernelConfig C>
struct Scheduler : Producer<C> {
    using Base = Producer<C>;
    using typename Base::Blocks;
    using Base::jobs, Base::params, Base::shared;

    HOPFILL_INLINE Scheduler(const PrefillParams& p, Shared<C> s) : Base(p, s) {}

    // The whole warp, behind the block's first barrier. Told that there is nothing more, consumers complete their last job, too, and if that
    // has failed, there is more.
    HOPFILL_INLINE void run() {
        sm90::wait_for_previous_launch();
        if (sm90::load_shared(&shared.job(0)->blocks) == kNoMoreJobs) return source.finish();
        jobs.advance();
        // In one wave there is no second job, whoever asks.
        const bool one_wave = static_cast<u32>(params.jobs) <= sm90::grid_size();
        bool drawn = false, ended = false;  // a number waits, as a job comes again; no number is left
        for (u32 phase = 0;; phase ^= 1) {
            if (!one_wave || ended) sm90::mbarrier_wait(shared.draw(), phase);
            if (!drawn && !ended) {
                if (leader) source.start_draw();
                source.finish_draw(leader);
            }
            u32 number = source.next;
            drawn = repeats_jobs(C) && has_failed(1, number);
            if (!describe(number, drawn)) {
                sm90::sync_warp();
                if (!ended) source.finish();
                ended = true;
                end();
                if (!repeats_jobs(C)) return;
                if (!has_failed(kJobSlots - 1, number)) return end();
                describe(number, true);
            }
        }
    }

private:
    bool leader = sm90::elect_one();
    JobSource<C> source{this->params};
    u32 failed_warps = 0;  // of the last job that has failed (splits)

    HOPFILL_INLINE bool describe(u32 number, bool again) {
        Job job;
        Blocks blocks;
        if (!this->decode(number, job, blocks)) return false;
        place_keys<C>(job, blocks);
        if (again) {
            job.unmasked = 0;
            if constexpr (C.splits) job.again = static_cast<i32>(failed_warps);
        }
        // All lanes have read what the slots held, flags among it.
        sm90::sync_warp();
        if (leader)
            this->publish(job);
        else
            this->count_job();
        return true;
    }
    HOPFILL_INLINE void end() {
        sm90::sync_warp();
        if (leader)
            this->publish_end();
        else
            this->count_job();
    }

    // Whether a job in the next `slots` slots has failed; then its number is the next one. Waits until all are done with them.
    HOPFILL_INLINE bool has_failed(u32 slots, u32& number) {
        CountedRing<kJobSlots> ring = jobs;
#pragma unroll 1
        for (; slots > 0; --slots, ring.advance()) {
            ring.wait_empty();
            Job* const job = shared.job(ring.at());
            i32* const flag = job->failed + sm90::lane_index();
            const bool failed = sm90::lane_index() < 4 * C.consumers && sm90::load_shared(flag) != 0;
            if (sm90::vote_any(failed)) {
                number = sm90::load_shared(&job->number);
                if constexpr (C.splits) failed_warps = sm90::ballot(failed);
                if (failed) sm90::store_shared(flag, 0);
                return true;
            }
        }
        return false;
    }
};

// Another warp: the loads of all jobs, one stream in which K runs one block ahead of V, across jobs too:
//   ... K[1] V[2] K[0] V[1] | Q' K'[last] V[0] | K'[last - 1] V'[last] ...
// or (queries_last())
//   ... K[1] V[2] K[0] V[1] V[0] | K'[last] Q' | K'[last - 1] V'[last] ...
template <KernelConfig C>
struct Loader : Producer<C> {
    using Base = Producer<C>;
    using typename Base::Blocks;
    using Base::jobs, Base::params, Base::shared;
    typename SmallRing<C.stages>::Type k, v;

    HOPFILL_INLINE Loader(const PrefillParams& p, Shared<C> s) : Base(p, s), k(s.k_full(0), s.k_empty(0)), v(s.v_full(0), s.v_empty(0)) {}

    // The whole warp, before the block's first barrier: the first job's first loads are under way while the consumers start. Dense jobs are known
    // from the parameters alone, before the launch before this one has ended; of ragged ones the lengths are data.
    HOPFILL_INLINE void begin() {
        Job job;
        Blocks blocks;
        if constexpr (C.packed) sm90::wait_for_previous_launch();
        const bool some = this->decode(sm90::block_index(), job, blocks);
        if constexpr (!C.packed) sm90::wait_for_previous_launch();
        if (!leader) return;
        if (some) {
            open(job, blocks);
            place_keys<C>(job, blocks);
            this->publish(job);
        } else {
            this->publish_end();
        }
    }

    // One lane, after it.
    HOPFILL_INLINE void run() {
        if (!leader || is_end(0)) return;
        // In one wave nothing comes behind a job that its last V could wait for.
        const bool v_first = queries_last(C) || static_cast<u32>(params.jobs) <= sm90::grid_size();
        // In two waves who ends first is to take the longer job: there the order of drawing counts for more.
        const i32 ahead = static_cast<u32>(params.jobs) > 2 * sm90::grid_size() ? 2 : 1;
        u32 at = 0;
        for (;;) {
            const Blocks b = blocks_of(at);
            // Two steps before the end, so that the answer is there in time; earlier, and blocks with long jobs hoard more.
            if (b.last < b.first + ahead) sm90::mbarrier_arrive(shared.draw());
            for (i32 n = b.last; n > b.first; --n) {
                if (n == b.first + ahead) sm90::mbarrier_arrive(shared.draw());
                load_k(b, n - 1);
                load_v(b, n);
            }
            bool pending = !v_first;  // its last V
            if (!pending) complete(at);
            u32 next = next_job();
            if (is_end(next)) {
                if (pending) complete(at);
                if constexpr (!repeats_jobs(C)) return;
                // There may be more.
                pending = false;
                release(next);
                next = next_job();
                if (is_end(next)) return;
            }
            open(next);
            if (pending) complete(at);
            at = next;
        }
    }

private:
    bool leader = sm90::elect_one();

    HOPFILL_INLINE void load_k(const Blocks& b, i32 n) { this->load_block(k, shared.k(0, k.at()), &params.k, b, n); }
    HOPFILL_INLINE void load_v(const Blocks& b, i32 n) { this->load_block(v, shared.v(0, v.at()), &params.v, b, n); }

    // Waits for what comes next; its slot.
    HOPFILL_INLINE u32 next_job() {
        jobs.wait_full();
        const u32 slot = jobs.at();
        jobs.advance();
        return slot;
    }
    HOPFILL_INLINE bool is_end(u32 slot) const { return sm90::load_shared(&shared.job(slot)->blocks) == kNoMoreJobs; }
    HOPFILL_INLINE void release(u32 slot) const { sm90::mbarrier_arrive(shared.job_empty() + slot); }

    HOPFILL_INLINE Blocks blocks_of(u32 slot) const {
        const Job* const at = shared.job(slot);
        const i32 first = sm90::load_shared(&at->first_block);
        return {{sm90::load_shared(&at->kv_row), sm90::load_shared(&at->kv_c3)},
                sm90::load_shared(&at->kv_head),
                first + sm90::load_shared(&at->blocks) - 1,
                first};
    }

    // A job's first loads.
    HOPFILL_INLINE void open(const Job& job, const Blocks& b) {
        if constexpr (!queries_last(C)) this->load_q(job);
        load_k(b, b.last);
        if constexpr (queries_last(C)) this->load_q(job);
    }
    HOPFILL_INLINE void open(u32 slot) {
        if constexpr (!queries_last(C)) this->load_q(rows_of(slot));
        const Blocks b = blocks_of(slot);
        load_k(b, b.last);
        if constexpr (queries_last(C)) this->load_q(rows_of(slot));
    }
    // Its last one; behind it nothing is left of it here.
    HOPFILL_INLINE void complete(u32 slot) {
        const Blocks b = blocks_of(slot);
        load_v(b, b.first);
        release(slot);
    }
    HOPFILL_INLINE Job rows_of(u32 slot) const {
        const Job* const at = shared.job(slot);
        Job job;
        job.head = sm90::load_shared(&at->head);
        job.sequence = sm90::load_shared(&at->sequence);
        job.row0 = sm90::load_shared(&at->row0);
        job.q_len = sm90::load_shared(&at->q_len);
        job.q_start = sm90::load_shared(&at->q_start);
        return job;
    }
};

}  // namespace hopfill
