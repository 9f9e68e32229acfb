// mbarriers and the fences that go with them (PTX ISA 9.7.13.15).
#include <fmt/format.h>

#include <algorithm>

#include "emulator/machine.h"

namespace hopfill::emulator {

void mbarrier_init(u64* bar, u32 arrivals, Site at) {
    Thread& t = Machine::self();
    Block& block = *t.block;
    const u32 offset = shared_offset(bar, 8, 8, "mbarrier_init", at);
    if (arrivals == 0 || arrivals >= 1u << 20)
        fail("barrier-init", fmt::format("an mbarrier for {} arrivals; 1 to 2^20 - 1 are possible", arrivals), at);
    const Actor actor{t.clock.data(), t.agent(), t.epoch(), false, Machine::current().site_index(at)};
    const auto [it, fresh] = block.mbarriers.try_emplace(offset);
    if (!fresh) fail("barrier-init", fmt::format("the mbarrier at {} is initialised a second time", describe_shared(offset)), at);
    const Conflict c = block.shadow.write(offset, 8, actor);
    if (c.kind != Conflict::none) fail_conflict(block, c, "mbarrier_init", true, false, at);
    block.shadow.set_barrier(offset, true);
    Mbarrier& b = it->second;
    b.offset = offset;
    b.count = b.pending = arrivals;
    b.agent = block.new_agent(fmt::format("TMA loads on the mbarrier at {}", describe_shared(offset)));
    b.initialiser = t.agent();
    b.init_epoch = t.epoch();
    b.gathering = b.completed = Clock(block.layout);
    b.last_waited.assign(block.threads.size(), -1);
}

void fence_mbarrier_init(Site) {
    Thread& t = Machine::self();
    for (auto& [offset, b] : t.block->mbarriers) {
        if (b.initialiser == t.agent()) b.fenced = true;
    }
    t.tick();
}

void fence_async_shared(Site) {
    Thread& t = Machine::self();
    t.clock[t.block->layout.fenced(t.agent())] = t.epoch();
    t.tick();
    Machine::current().maybe_yield();
}

Mbarrier& find_mbarrier(u64* bar, const Site& at) {
    Thread& t = Machine::self();
    const u32 offset = shared_offset(bar, 8, 8, "an mbarrier", at);
    const auto it = t.block->mbarriers.find(offset);
    if (it == t.block->mbarriers.end()) fail("barrier-init", fmt::format("the mbarrier at {} has not been initialised", describe_shared(offset)), at);
    Mbarrier& b = it->second;
    if (t.clock[b.initialiser] < b.init_epoch)
        fail("barrier-init", fmt::format("the mbarrier at {} is used without a barrier after its initialisation", describe_shared(offset)), at);
    return b;
}

void complete_if_done(Block& block, Mbarrier& b) {
    if (b.pending != 0 || b.bytes != 0) return;
    Machine& m = block.machine;
    if (b.copies != 0) {
        m.fault(
            "byte-count",
            fmt::format("byte-count: phase {} of the mbarrier at {} completes while {} bytes of its TMA loads are in flight: too few were expected\n"
                        "  block {}, last load at {}",
                        b.phase, describe_shared(b.offset), b.copy_bytes, block.index, describe(b.load_at)));
        return;
    }
    if (!b.released.empty()) {
        m.fault(
            "phase-lapped",
            fmt::format("phase-lapped: phase {} of the mbarrier at {} completes while a waiter for phase {} has not seen that one complete: {} at {}",
                        b.phase, describe_shared(b.offset), b.phase - 1, describe(*b.released.front()), describe(b.load_at)));
        return;
    }
    if (b.loads_phase == static_cast<i64>(b.phase)) b.gathering[b.agent] = static_cast<i32>(b.phase) + 1;
    std::swap(b.completed, b.gathering);
    b.gathering.reset(0);
    ++b.phase;
    b.pending = b.count;
    for (Thread* t : b.waiters) {
        t->clock.join(b.completed);
        b.last_waited[t->id] = static_cast<i64>(b.phase) - 1;
        m.wake(*t);
    }
    b.released.swap(b.waiters);
    b.waiters.clear();
}

void mbarrier_arrive(u64* bar, u32 bytes, Site at) {
    Thread& t = Machine::self();
    Machine& m = Machine::current();
    m.maybe_yield();
    Mbarrier& b = find_mbarrier(bar, at);
    if (b.pending == 0)
        fail("barrier-over-arrival",
             fmt::format("one arrival more than the {} of phase {} of the mbarrier at {}, which still waits for {} bytes", b.count, b.phase,
                         describe_shared(b.offset), b.bytes),
             at);
    b.bytes += bytes;
    if (b.bytes >= 1 << 20)
        fail("byte-count", fmt::format("{} bytes expected by the mbarrier at {}; it counts to 2^20 - 1", b.bytes, describe_shared(b.offset)), at);
    b.gathering.join(t.clock);
    t.tick();
    --b.pending;
    complete_if_done(*t.block, b);
    if (m.failed()) m.stop_fiber();
    m.maybe_yield();
}

namespace {

// Whether the phase of this parity is the last that completed: then the thread acquires it.
bool try_acquire(Thread& t, Mbarrier& b, u32 parity, const Site& at) {
    i64& last = b.last_waited[t.id];
    const i64 completed = static_cast<i64>(b.phase) - 1;
    if ((static_cast<u64>(last + 1) & 1) == (parity & 1) && completed > last + 1)
        fail("phase-lapped",
             fmt::format("a wait for phase {} (parity {}) of the mbarrier at {} comes when phase {} has completed", last + 1, parity & 1,
                         describe_shared(b.offset), completed),
             at);
    if ((b.phase & 1) == (parity & 1)) return false;
    if (completed >= 0) t.clock.join(b.completed);
    last = completed;
    return true;
}

void wait_blocked(Thread& t, Mbarrier& b, const Site& at) {
    b.waiters.push_back(&t);
    Machine::current().block_thread(t, {Waiting::mbarrier, "", b.phase, &b, at});
    std::erase(b.released, &t);
}

}  // namespace

bool mbarrier_try_wait(u64* bar, u32 parity, Site at) {
    Thread& t = Machine::self();
    Machine& m = Machine::current();
    m.maybe_yield();
    Mbarrier& b = find_mbarrier(bar, at);
    if (try_acquire(t, b, parity, at)) return true;
    // The instruction may suspend until the phase completes, or give up.
    if (m.random.one_in(4)) {
        m.maybe_yield(1);
        return false;
    }
    wait_blocked(t, b, at);
    return true;
}

bool mbarrier_test(u64* bar, u32 parity, Site at) {
    Machine::current().maybe_yield();
    const bool done = try_acquire(Machine::self(), find_mbarrier(bar, at), parity, at);
    // The wait that is left out would have let others overtake.
    if (done) Machine::current().fall_behind();
    return done;
}

void mbarrier_wait(u64* bar, u32 parity, Site at) {
    Thread& t = Machine::self();
    Machine::current().fall_behind();
    Mbarrier& b = find_mbarrier(bar, at);
    if (!try_acquire(t, b, parity, at)) wait_blocked(t, b, at);
}

}  // namespace hopfill::emulator
