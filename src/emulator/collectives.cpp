// Aligned instructions of a warp, named barriers, setmaxnreg.
#include <fmt/format.h>

#include <cstring>

#include "emulator/machine.h"

namespace hopfill::emulator {
namespace {

constexpr u32 kAllLanes = 0xffffffffu;

bool same_place(const Site& a, const Site& b) {
    return a.line() == b.line() && a.column() == b.column() && std::strcmp(a.file_name(), b.file_name()) == 0;
}

}  // namespace

// The n-th aligned instruction that a lane executes must be the same for all lanes of its warp; the kernel's end counts as one.
Collective& join(Thread& t, Op op, u64 extra, const Site& at) {
    Warp& w = *t.warp;
    const u64 number = t.collectives++;
    const u64 place = number - w.first;
    if (place == w.pending.size()) w.pending.push_back({op, at, extra});
    Collective& c = w.pending[place];
    if (c.op != op || c.extra != extra || (op != Op::exit && !same_place(c.at, at))) {
        const Thread& other = t.block->threads[w.id * 32 + static_cast<u32>(__builtin_ctz(c.arrived))];
        fail("divergence",
             fmt::format("the warp is not converged: lane {} reaches {} (operands {:#x}), lane {} reached {} (operands {:#x}) at {}", t.lane,
                         name_of(op), extra, other.lane, name_of(c.op), c.extra, c.op == Op::exit ? "its end" : describe(c.at)),
             at);
    }
    c.arrived |= 1u << t.lane;
    for (u32 lane = 0; lane < 32; ++lane) {
        Thread& u = t.block->threads[w.id * 32 + lane];
        if (u.waiting.what == Waiting::collective && u.waiting.detail == number) Machine::current().wake(u);
    }
    return c;
}

void leave(Thread& t, u64 number) {
    Warp& w = *t.warp;
    w.pending[number - w.first].left |= 1u << t.lane;
    while (!w.pending.empty() && w.pending.front().left == kAllLanes) {
        w.pending.pop_front();
        ++w.first;
    }
}

void wait_for_lanes(Thread& t, u64 number, u32 lanes, const Site& at) {
    for (;;) {
        const Collective& c = t.warp->pending[number - t.warp->first];
        if ((c.arrived & lanes) == lanes) return;
        Machine::current().block_thread(t, {Waiting::collective, name_of(c.op), number, nullptr, at});
    }
}

u64 shuffle(Shuffle kind, u64 value, u32 operand, Site at) {
    Thread& t = Machine::self();
    const u64 number = t.collectives;
    Collective& c = join(t, Op::shuffle, 0, at);
    c.value[t.lane][0] = value;
    u32 from = operand & 31;
    if (kind == Shuffle::exclusive_or) from = (t.lane ^ operand) & 31;
    if (kind == Shuffle::up) from = t.lane < operand ? t.lane : t.lane - operand;
    wait_for_lanes(t, number, 1u << from, at);
    const u64 result = c.value[from][0];
    leave(t, number);
    return result;
}

u32 ballot(bool p, Site at) {
    Thread& t = Machine::self();
    const u64 number = t.collectives;
    Collective& c = join(t, Op::ballot, 0, at);
    c.value[t.lane][0] = p;
    wait_for_lanes(t, number, kAllLanes, at);
    u32 result = 0;
    for (u32 lane = 0; lane < 32; ++lane) result |= static_cast<u32>(c.value[lane][0]) << lane;
    leave(t, number);
    return result;
}

void sync_warp(Site at) {
    Thread& t = Machine::self();
    const u64 number = t.collectives;
    join(t, Op::sync_warp, 0, at);
    Warp& w = *t.warp;
    // Two sets of clocks alternate: a lane may reach the next sync_warp while others still take from this one.
    const u64 side = w.sync_count[t.lane]++ % 2;
    w.sync[side].join(t.clock);
    t.tick();
    wait_for_lanes(t, number, kAllLanes, at);
    t.clock.join(w.sync[side]);
    if (++w.syncs[side] == 32) {
        w.syncs[side] = 0;
        w.sync[side].reset(0);
    }
    leave(t, number);
}

bool elect_one(Site at) {
    Thread& t = Machine::self();
    const u64 number = t.collectives;
    join(t, Op::elect, 0, at);
    leave(t, number);
    return t.lane == Machine::current().elected_lane;
}

// Lane 8 i + r gives the address of row r of matrix i; its words are in register i of lanes 4 r to 4 r + 3.
void store_matrix(void* row, u32 m0, u32 m1, u32 m2, u32 m3, Site at) {
    Thread& t = Machine::self();
    for (u32 m : {m0, m1, m2, m3}) {
        if ((m & 0x7fffffffu) == kPoison) poison_used(at);
    }
    const u64 number = t.collectives;
    Collective& c = join(t, Op::store_matrix, 0, at);
    c.value[t.lane][0] = m0 | u64{m1} << 32;
    c.value[t.lane][1] = m2 | u64{m3} << 32;
    wait_for_lanes(t, number, kAllLanes, at);
    const u32 matrix = t.lane / 8, first = t.lane % 8 * 4;
    u32 words[4];
    for (u32 i = 0; i < 4; ++i) words[i] = static_cast<u32>(c.value[first + i][matrix / 2] >> (matrix % 2 * 32));
    leave(t, number);
    shared_offset(row, 16, 16, "stmatrix", at);
    shared_write(row, 16, at);
    std::memcpy(row, words, 16);
}

// Lane 8 i + r gives the address of row r of matrix i; register i of lane l receives elements (2 (l % 4), l / 4) and (2 (l % 4) + 1, l / 4) of it.
void load_matrix_transposed(const void* row, u32 (&m)[4], Site at) {
    Thread& t = Machine::self();
    shared_offset(row, 16, 16, "ldmatrix", at);
    shared_read(row, 16, at);
    const u64 number = t.collectives;
    Collective& c = join(t, Op::load_matrix, 0, at);
    std::memcpy(c.value[t.lane], row, 16);
    wait_for_lanes(t, number, kAllLanes, at);
    const auto element = [&](u32 matrix, u32 r, u32 column) {
        u16 v;
        std::memcpy(&v, reinterpret_cast<const u8*>(c.value[8 * matrix + r]) + 2 * column, 2);
        return u32{v};
    };
    const u32 r = t.lane % 4 * 2, column = t.lane / 4;
    for (u32 i = 0; i < 4; ++i) m[i] = element(i, r, column) | element(i, r + 1, column) << 16;
    leave(t, number);
}

namespace {

void arrive(Thread& t, u32 id, u32 threads, bool wait, const Site& at) {
    Block& block = *t.block;
    Machine& m = Machine::current();
    NamedBarrier& b = block.named[id];
    if (b.gathering.empty()) {
        b.gathering = Clock(block.layout);
        b.has_arrived.assign(block.threads.size(), false);
    }
    if (b.arrived == 0) {
        b.threads = threads;
        b.first_at = at;
    } else if (b.threads != threads) {
        fail("barrier-count",
             fmt::format("named barrier {} is used with {} threads, by others at {} with {}", id, threads, describe(b.first_at), b.threads), at);
    }
    // A thread may arrive and then wait in one generation, as the first turn's owner does, but not arrive twice.
    if (!wait) {
        if (b.has_arrived[t.id])
            fail("barrier-over-arrival",
                 fmt::format("a second arrival in generation {} of named barrier {}: {} of {} threads have arrived", b.generation, id, b.arrived,
                             b.threads),
                 at);
        b.has_arrived[t.id] = true;
    }
    b.gathering.join(t.clock);
    t.tick();
    if (++b.arrived < b.threads) {
        if (wait) {
            b.waiters.push_back(&t);
            m.block_thread(t, {Waiting::named_barrier, "", id, nullptr, at});
        } else {
            m.maybe_yield();
        }
        return;
    }
    if (wait) t.clock.join(b.gathering);
    for (Thread* u : b.waiters) {
        u->clock.join(b.gathering);
        m.wake(*u);
    }
    b.waiters.clear();
    b.gathering.reset(0);
    b.has_arrived.assign(block.threads.size(), false);
    b.arrived = 0;
    ++b.generation;
    m.maybe_yield();
}

}  // namespace

void named_barrier(u32 id, u32 threads, bool wait, Site at) {
    Thread& t = Machine::self();
    if (id >= 16) fail("barrier-count", fmt::format("named barrier {}; there are 16", id), at);
    if (id == 0 && !wait) fail("barrier-count", "an arrival at barrier 0, which is sync_block's: an illegal instruction on an H200", at);
    if (threads == 0 || threads % 32 != 0 || threads > t.block->threads.size())
        fail("barrier-count",
             fmt::format("named barrier {} with {} threads; whole warps of the block's {} are possible", id, threads, t.block->threads.size()), at);
    const u64 number = t.collectives;
    join(t, wait ? Op::barrier_sync : Op::barrier_arrive, u64{id} << 16 | threads, at);
    leave(t, number);
    arrive(t, id, threads, wait, at);
}

void sync_block(Site at) { named_barrier(0, static_cast<u32>(Machine::self().block->threads.size()), true, at); }

void set_registers(u32 count, bool take, Site at) {
    Thread& t = Machine::self();
    Machine& m = Machine::current();
    Block& block = *t.block;
    Warp& w = *t.warp;
    const u64 number = t.collectives;
    Collective& c = join(t, Op::set_registers, u64{count} << 1 | u64{take}, at);
    wait_for_lanes(t, number, 0xffffffffu, at);
    u64& done = c.value[0][0];
    while (done == 0) {
        if (take ? count < w.registers : count > w.registers)
            fail("registers", fmt::format("setmaxnreg.{} to {} registers a thread, which has {}", take ? "inc" : "dec", count, w.registers), at);
        const i64 need = (i64{count} - w.registers) * 32;
        if (need > block.free_registers) {
            block.register_waiters.push_back(&t);
            m.block_thread(t, {Waiting::registers, "", count, nullptr, at});
            continue;
        }
        block.free_registers -= need;
        w.registers = count;
        w.registers_at = at;
        done = 1;
        for (Thread* u : block.register_waiters) m.wake(*u);
        block.register_waiters.clear();
    }
    leave(t, number);
}

void check_exit(Thread& t) {
    const Site here = Site::current();
    if (!t.in_flight.empty())
        fail("exit-in-flight", fmt::format("a thread ends with matrix products in flight (issued at {})", describe(t.in_flight.front().at)),
             t.in_flight.front().at);
    const u64 groups = t.first_bulk + t.bulk.size();
    for (u64 g = t.bulk_read_waited; g < groups; ++g) {
        const u64 at = g - t.first_bulk;
        if (at < t.bulk.size() && t.bulk[at]->stores > 0)
            fail("exit-in-flight",
                 t.bulk[at]->committed ? "a thread ends without waiting until its bulk stores have read shared memory"
                                       : "a thread ends with uncommitted bulk stores",
                 t.bulk[at]->at);
    }
    join(t, Op::exit, 0, here);
}

}  // namespace hopfill::emulator
