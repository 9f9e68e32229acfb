// Bulk tensor copies (PTX ISA 9.7.9.27.1): issued by one thread, done some time later.
#include <fmt/format.h>

#include <cstring>

#include "emulator/machine.h"
#include "emulator/tensor_map.h"

namespace hopfill::emulator {
namespace {

EncodedMap read_map(const TensorMap* map, const Site& at) {
    EncodedMap m;
    if (reinterpret_cast<u64>(map) % 64 != 0)
        fail("alignment", fmt::format("a tensor map at {}, which must be 64-byte aligned", static_cast<const void*>(map)), at);
    std::memcpy(&m, map->opaque, sizeof m);
    if (m.magic != EncodedMap::kMagic) fail("tensor-map", "the tensor map has not been encoded", at);
    if (const u32 span = swizzle_span(m.swizzle); span != 0 && m.row_bytes() != span)
        fail("tensor-map",
             fmt::format("rows of {} bytes under a swizzle of {}: how they lie in shared memory is not documented", m.row_bytes(), span), at);
    return m;
}

// Place of a row's chunk in shared memory: what the swizzle looks at is the address.
u32 chunk_offset(const EncodedMap& m, u32 start, u32 row, u32 byte) {
    return swizzle_address(start + kWindowStart + row * m.row_bytes() + byte, m.swizzle) - kWindowStart;
}

void check_rows(const EncodedMap& m, const i32 (&c)[5], bool write, const char* what, const Site& at) {
    for_each_row(m, c, [&](u32, const BoxRow& row) {
        if (row.count != 0)
            global_access(reinterpret_cast<const void*>(row.address), row.count * static_cast<std::size_t>(elem_bytes(m.elem)), write, what, at);
    });
}

// `visit` gets the number of each 16 bytes of the box that lie in a buffer which is handed over.
template <class Visit>
void for_each_handed_over(const EncodedMap& m, const i32 (&c)[5], Visit visit) {
    for_each_row(m, c, [&](u32, const BoxRow& row) {
        const u64 bytes = u64{row.count} * static_cast<u64>(elem_bytes(m.elem));
        if (bytes == 0 || !Machine::current().buffer_of(reinterpret_cast<const void*>(row.address), bytes)->handed_over) return;
        for (u64 piece = row.address / 16; piece * 16 < row.address + bytes; ++piece) visit(piece);
    });
}

// What other threads have stored in this launch must be complete, and known to be so: their tma_store_wait, fence_device and an atomic, and a
// wait_global for that here.
void check_handed_over(const EncodedMap& m, const i32 (&c)[5], const Site& at) {
    const Thread& t = Machine::self();
    const Machine& machine = Machine::current();
    const auto knows = [](const StoredGroups& groups, const std::pair<Storer, u64>& store) {
        const auto known = groups.find(store.first);
        return known != groups.end() && known->second >= store.second;
    };
    for_each_handed_over(m, c, [&](u64 piece) {
        const auto store = machine.stored.find(piece);
        if (store == machine.stored.end()) fail("uninitialised-read", "tma_load of global memory that nothing has been stored to", at);
        const auto& [block, thread] = store->second.first;
        if (!knows(t.known_stores, store->second))
            fail("race",
                 fmt::format("tma_load of global memory that thread {} of block {} has stored to, without knowing that it is there: it takes its "
                             "tma_store_wait, fence_device and an atomic, and wait_global here",
                             thread, block),
                 at);
        if (!knows(t.known_to_async, store->second))
            fail("missing-proxy-fence", "tma_load of global memory that others have stored to, with no fence_async_global after wait_global", at);
    });
}

// What an H100 answers with an illegal instruction (evidence/instructions.json, 'tma load' and 'tma store').
void check_coordinates(const EncodedMap& m, const i32 (&c)[5], bool store, const char* what, const Site& at) {
    if (c[0] * elem_bytes(m.elem) % 16 != 0)
        fail("coordinates", fmt::format("{} at column {}, which does not lie at a multiple of 16 bytes", what, c[0]), at);
    for (u32 i = 0; i < 5 && store; ++i) {
        if (c[i] < 0)
            fail("coordinates", fmt::format("{} at coordinate {} in dimension {}: only loads may begin before a tensor", what, c[i], i), at);
    }
}

}  // namespace

void tma_prefetch_map(const TensorMap* map, Site at) { read_map(map, at); }

void tma_load(void* to, const TensorMap* map, u64* bar, const i32 (&c)[5], Site at) {
    Thread& t = Machine::self();
    Machine& machine = Machine::current();
    Block& block = *t.block;
    t.warp->loads = true;
    machine.maybe_yield();
    const EncodedMap m = read_map(map, at);
    Mbarrier& b = find_mbarrier(bar, at);
    if (!b.fenced)
        fail("barrier-init",
             fmt::format("TMA counts on the mbarrier at {}, whose initialisation no fence_mbarrier_init made visible to it",
                         describe_shared(b.offset)),
             at);
    const u32 bytes = m.box_bytes();
    const u32 offset = shared_offset(to, bytes, 128, "tma_load", at);
    check_coordinates(m, c, false, "tma_load", at);
    check_rows(m, c, false, "tma_load", at);
    check_handed_over(m, c, at);
    const Actor actor{t.clock.data(), b.agent, static_cast<i32>(b.phase) + 1, true, machine.site_index(at)};
    const Conflict conflict = block.shadow.write(offset, bytes, actor);
    if (conflict.kind != Conflict::none) fail_conflict(block, conflict, "tma_load", true, true, at);
    b.loads_phase = static_cast<i64>(b.phase);
    b.load_at = at;
    ++b.copies;
    b.copy_bytes += bytes;
    const auto land = [&block, &b, m, offset, bytes, at0 = std::array<i32, 5>{c[0], c[1], c[2], c[3], c[4]}] {
        const i32 at[5] = {at0[0], at0[1], at0[2], at0[3], at0[4]};
        const u32 element = static_cast<u32>(elem_bytes(m.elem));
        u8 buffer[256 * 4];
        for_each_row(m, at, [&](u32 row, const BoxRow& r) {
            std::memset(buffer, 0, m.row_bytes());
            if (r.count != 0) std::memcpy(buffer + r.first * element, reinterpret_cast<const void*>(r.address), std::size_t{r.count} * element);
            for (u32 byte = 0; byte < m.row_bytes(); byte += 16) std::memcpy(block.shared + chunk_offset(m, offset, row, byte), buffer + byte, 16);
        });
        --b.copies;
        b.copy_bytes -= bytes;
        b.bytes -= bytes;
        complete_if_done(block, b);
    };
    machine.schedule(block, land);
    machine.maybe_yield();
}

void tma_store(const TensorMap* map, const void* from, const i32 (&c)[5], Site at) {
    Thread& t = Machine::self();
    Machine& machine = Machine::current();
    Block& block = *t.block;
    machine.maybe_yield();
    const EncodedMap m = read_map(map, at);
    const u32 bytes = m.box_bytes();
    const u32 offset = shared_offset(from, bytes, 128, "tma_store", at);
    check_coordinates(m, c, true, "tma_store", at);
    check_rows(m, c, true, "tma_store", at);
    if (t.bulk_agent == 0) t.bulk_agent = block.new_agent(fmt::format("a tma_store of warp {} lane {}", t.warp->id, t.lane));
    if (t.bulk.empty() || t.bulk.back()->committed) t.bulk.push_back(std::make_shared<BulkGroup>());
    const std::shared_ptr<BulkGroup> group = t.bulk.back();
    const u64 number = t.first_bulk + t.bulk.size() - 1;
    const Actor actor{t.clock.data(), t.bulk_agent, static_cast<i32>(number) + 1, true, machine.site_index(at)};
    // What lies outside the tensor is not stored, whatever it is.
    for_each_row(m, c, [&](u32 row, const BoxRow& r) {
        const u32 element = static_cast<u32>(elem_bytes(m.elem)), end = (r.first + r.count) * element;
        for (u32 byte = r.first * element / 16 * 16; byte < end; byte += 16) {
            const Conflict conflict = block.shadow.read(chunk_offset(m, offset, row, byte), 16, actor);
            if (conflict.kind != Conflict::none) fail_conflict(block, conflict, "tma_store", false, true, at);
        }
    });
    for_each_handed_over(m, c, [&](u64 piece) {
        if (!machine.stored.try_emplace(piece, Storer{block.index, t.id}, number + 1).second)
            fail("race", "tma_store to global memory that has been stored to and may have been handed over already", at);
    });
    ++group->stores;
    ++group->reading;
    ++group->writing;
    group->at = at;
    const auto wake_storer = [&machine, &t] {
        if (t.waiting.what == Waiting::bulk_read || t.waiting.what == Waiting::bulk_write) machine.wake(t);
    };
    const auto read = [&machine, &block, group, wake_storer, m, offset, at0 = std::array<i32, 5>{c[0], c[1], c[2], c[3], c[4]}] {
        std::vector<u8> box(m.box_bytes());
        for (u32 byte = 0; byte < m.box_bytes(); byte += 16)
            std::memcpy(box.data() + byte, block.shared + chunk_offset(m, offset, byte / m.row_bytes(), byte % m.row_bytes()), 16);
        --group->reading;
        wake_storer();
        machine.schedule(block, [group, wake_storer, m, at0, box = std::move(box)] {
            const i32 at[5] = {at0[0], at0[1], at0[2], at0[3], at0[4]};
            const u32 element = static_cast<u32>(elem_bytes(m.elem));
            for_each_row(m, at, [&](u32 row, const BoxRow& r) {
                if (r.count != 0)
                    std::memcpy(reinterpret_cast<void*>(r.address), box.data() + row * m.row_bytes() + r.first * element,
                                std::size_t{r.count} * element);
            });
            --group->writing;
            wake_storer();
        });
    };
    machine.schedule(block, read);
}

void tma_store_commit(Site at) {
    Thread& t = Machine::self();
    if (t.bulk.empty() || t.bulk.back()->committed) t.bulk.push_back(std::make_shared<BulkGroup>());
    t.bulk.back()->committed = true;
    t.bulk.back()->at = at;
}

void tma_store_wait(u32 pending, bool read_only, Site at) {
    Thread& t = Machine::self();
    Machine& machine = Machine::current();
    const u64 committed = t.first_bulk + t.bulk.size() - (!t.bulk.empty() && !t.bulk.back()->committed ? 1 : 0);
    const u64 target = committed > pending ? committed - pending : 0;
    for (;;) {
        bool done = true;
        for (u64 g = t.first_bulk; g < target; ++g) {
            const BulkGroup& group = *t.bulk[g - t.first_bulk];
            done = done && group.reading == 0 && (read_only || group.writing == 0);
        }
        if (done) break;
        machine.block_thread(t, {read_only ? Waiting::bulk_read : Waiting::bulk_write, "", target, nullptr, at});
    }
    if (!read_only) t.bulk_written = std::max(t.bulk_written, target);
    if (target > t.bulk_read_waited) t.bulk_read_waited = target;
    if (t.bulk_agent != 0 && static_cast<i32>(target) > t.clock[t.bulk_agent]) t.clock[t.bulk_agent] = static_cast<i32>(target);
    while (!t.bulk.empty() && t.first_bulk < t.bulk_read_waited && t.bulk.front()->writing == 0) {
        t.bulk.pop_front();
        ++t.first_bulk;
    }
}

void check_block_exit(Block& block) {
    Machine& m = block.machine;
    for (const auto& [offset, b] : block.mbarriers) {
        if (b.loads_phase < 0) continue;
        bool seen = false;
        for (const Thread& t : block.threads) seen = seen || t.clock[b.agent] > b.loads_phase;
        if (!seen) {
            m.fault("exit-in-flight",
                    fmt::format("exit-in-flight: block {} ends, and no thread has waited for the TMA load at {} on the mbarrier at {}, phase {}",
                                block.index, describe(b.load_at), describe_shared(offset), b.loads_phase));
            return;
        }
    }
    for (u32 id = 0; id < 16; ++id) {
        const NamedBarrier& b = block.named[id];
        if (b.arrived != 0) {
            m.fault("barrier-unfinished",
                    fmt::format("barrier-unfinished: block {} ends with {} of {} threads arrived at named barrier {}, first at {}", block.index,
                                b.arrived, b.threads, id, describe(b.first_at)));
            return;
        }
    }
    for (std::size_t w = 0; w + 1 < block.warps.size(); ++w) {
        if ((w + 1) % 4 != 0 && block.warps[w].registers != block.warps[w + 1].registers) {
            const Site& at = block.warps[w].registers_at.line() != 0 ? block.warps[w].registers_at : block.warps[w + 1].registers_at;
            m.fault("registers", fmt::format("registers: warps {} and {} of block {}'s warpgroup {} end with {} and {} registers a thread: "
                                             "setmaxnreg, here at {}, is for all warps of a warpgroup",
                                             w, w + 1, block.index, w / 4, block.warps[w].registers, block.warps[w + 1].registers, describe(at)));
            return;
        }
    }
}

}  // namespace hopfill::emulator
