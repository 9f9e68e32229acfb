#include "emulator/shadow.h"

#include <algorithm>

namespace hopfill::emulator {

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define HOPFILL_WIDE __attribute__((target_clones("avx2", "default")))
#else
#define HOPFILL_WIDE
#endif

HOPFILL_WIDE void join_clocks(i32* __restrict to, const i32* __restrict from, int count) {
    for (int i = 0; i < count; ++i) to[i] = to[i] > from[i] ? to[i] : from[i];
}
HOPFILL_WIDE void meet_clocks(i32* __restrict to, const i32* __restrict from, int count) {
    for (int i = 0; i < count; ++i) to[i] = to[i] < from[i] ? to[i] : from[i];
}

Conflict Shadow::access(u32 offset, u32 bytes, const Actor& actor, bool write) {
    u32 at = offset;
    const u32 end = offset + bytes;
    while (at < end) {
        Cell& cell = cells_[at / kGranule];
        const u32 granule = at / kGranule * kGranule;
        const u32 stop = std::min(end, granule + kGranule);
        if (cell.barriers != 0) {
            for (u32 half = 0; half < 2; ++half) {
                if ((cell.barriers >> half & 1) != 0 && at < granule + 8 * half + 8 && stop > granule + 8 * half)
                    return {Conflict::on_barrier, granule + 8 * half, 0, 0};
            }
        }
        if (Conflict c = access_part(cell, granule, kGranule, at, stop, actor, write); c.kind != Conflict::none) return c;
        at = stop;
    }
    return {};
}

// Bytes [from, to) of the cell of [base, base + size).
Conflict Shadow::access_part(Cell& cell, u32 base, u32 size, u32 from, u32 to, const Actor& actor, bool write) {
    if (cell.split < 0 && from <= base && to >= base + size) return access_cell(cell, base, actor, write);
    if (cell.split < 0) split(cell);
    const u32 step = size / 4;
    for (u32 i = 0; i < 4; ++i) {
        const u32 part = base + i * step;
        if (part >= to || part + step <= from) continue;
        Cell& inner = parts_[static_cast<std::size_t>(cell.split)].part[i];
        if (Conflict c = access_part(inner, part, step, from, to, actor, write); c.kind != Conflict::none) return c;
    }
    return {};
}

Conflict Shadow::access_cell(Cell& cell, u32 offset, const Actor& actor, bool write) {
    if (!write && !cell.initialised) return {Conflict::uninitialised, offset, 0, 0};
    // A thread's own accesses are ordered; asynchronous operations of one agent are not.
    const bool by_thread = ClockLayout::is_thread(actor.agent);
    if (cell.initialised && !(by_thread && cell.writer == actor.agent)) {
        if (actor.seen[cell.writer] < cell.write_epoch) return {Conflict::unordered_write, offset, cell.writer, cell.write_site};
    }
    if (actor.async && cell.initialised && cell.generic_write && actor.seen[layout_.fenced(cell.writer)] < cell.write_epoch)
        return {Conflict::unfenced, offset, cell.writer, cell.write_site};
    if (!write) {
        add_read(cell, actor);
        return {};
    }
    const auto ordered = [&](const Read& r) { return (by_thread && r.agent == actor.agent) || actor.seen[r.agent] >= r.epoch; };
    for (u8 i = 0; i < cell.reads; ++i) {
        if (!ordered(cell.read[i])) return {Conflict::unordered_read, offset, cell.read[i].agent, cell.read[i].site};
    }
    if (cell.overflow >= 0) {
        std::vector<Read>& more = overflow_[static_cast<std::size_t>(cell.overflow)];
        for (const Read& r : more) {
            if (!ordered(r)) return {Conflict::unordered_read, offset, r.agent, r.site};
        }
        more.clear();
    }
    cell.reads = 0;
    cell.write_epoch = actor.epoch;
    cell.writer = actor.agent;
    cell.write_site = actor.site;
    cell.initialised = true;
    cell.generic_write = !actor.async;
    return {};
}

// Reads that happened before this one need not be kept: a write that follows this one follows them.
void Shadow::add_read(Cell& cell, const Actor& actor) {
    const Read now{actor.epoch, actor.agent, actor.site};
    const auto superseded = [&](const Read& r) { return r.agent == actor.agent || actor.seen[r.agent] >= r.epoch; };
    for (u8 i = 0; i < cell.reads; ++i) {
        if (superseded(cell.read[i])) {
            cell.read[i] = now;
            return;
        }
    }
    if (cell.reads < 3) {
        cell.read[cell.reads++] = now;
        return;
    }
    if (cell.overflow < 0) {
        cell.overflow = static_cast<i32>(overflow_.size());
        overflow_.emplace_back();
    }
    std::vector<Read>& more = overflow_[static_cast<std::size_t>(cell.overflow)];
    for (Read& r : more) {
        if (superseded(r)) {
            r = now;
            return;
        }
    }
    more.push_back(now);
}

void Shadow::split(Cell& cell) {
    Parts parts;
    for (Cell& w : parts.part) {
        w = cell;
        w.barriers = 0;
        if (cell.overflow >= 0) {
            w.overflow = static_cast<i32>(overflow_.size());
            overflow_.push_back(overflow_[static_cast<std::size_t>(cell.overflow)]);
        }
    }
    cell.split = static_cast<i32>(parts_.size());
    parts_.push_back(parts);
}

void Shadow::set_barrier(u32 offset, bool present) {
    u8& bits = cells_[offset / kGranule].barriers;
    const u8 bit = static_cast<u8>(1u << (offset / 8 % 2));
    bits = static_cast<u8>(present ? bits | bit : bits & ~bit);
}

}  // namespace hopfill::emulator
