// A ring of slots between a producer and consumers. Phases live only here.
//   full[i]   completes when slot i holds data: who fills it arrives (TMA by its bytes), consumers wait
//   empty[i]  completes when every consumer has read slot i: consumers arrive, who fills it waits
#pragma once

#include "plan/types.h"
#include "sm90/mbarrier.cuh"

namespace hopfill {

template <i32 Slots>
struct Ring {
    u64* full;
    u64* empty;
    u32 slot = 0;
    u32 phase = 0;

    HOPFILL_INLINE Ring(u64* full_barriers, u64* empty_barriers) : full(full_barriers), empty(empty_barriers) {}

    HOPFILL_INLINE u32 at() const { return slot; }
    HOPFILL_INLINE void advance() {
        if (++slot == Slots) {
            slot = 0;
            phase ^= 1;
        }
    }
    // The first round finds every slot free: a fresh barrier counts as having completed the phase before its first.
    HOPFILL_INLINE void wait_empty() const { sm90::mbarrier_wait(&empty[slot], phase ^ 1); }
    HOPFILL_INLINE void wait_full() const { sm90::mbarrier_wait(&full[slot], phase); }
    // Whether the slot has been filled, asked for ahead of wait_full().
    HOPFILL_INLINE bool test_full() const { return sm90::mbarrier_test(&full[slot], phase); }
    HOPFILL_INLINE u64* full_barrier() const { return &full[slot]; }
    HOPFILL_INLINE void release() const { sm90::mbarrier_arrive(&empty[slot]); }
};

// A register less: of a power of two slots, slot and phase follow from a count.
template <i32 Slots>
struct CountedRing {
    static_assert((Slots & (Slots - 1)) == 0);
    u64* full;
    u64* empty;
    u32 taken = 0;

    HOPFILL_INLINE CountedRing(u64* full_barriers, u64* empty_barriers) : full(full_barriers), empty(empty_barriers) {}

    HOPFILL_INLINE u32 at() const { return taken % Slots; }
    HOPFILL_INLINE void advance() { ++taken; }
    HOPFILL_INLINE u32 empty_phase() const { return taken / Slots % 2 ^ 1; }
    HOPFILL_INLINE void wait_empty() const { sm90::mbarrier_wait(&empty[at()], empty_phase()); }
    HOPFILL_INLINE void wait_full() const { sm90::mbarrier_wait(&full[at()], empty_phase() ^ 1); }
    HOPFILL_INLINE u64* full_barrier() const { return &full[at()]; }
    HOPFILL_INLINE void release() const { sm90::mbarrier_arrive(&empty[at()]); }
};

// The one that takes fewer registers.
template <i32 Slots, bool Counted = (Slots & (Slots - 1)) == 0>
struct SmallRing {
    using Type = Ring<Slots>;
};
template <i32 Slots>
struct SmallRing<Slots, true> {
    using Type = CountedRing<Slots>;
};

}  // namespace hopfill
