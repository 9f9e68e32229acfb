// Coordinates, and ordinary accesses to shared and global memory.
#include <fmt/format.h>

#include <algorithm>
#include <span>

#include "emulator/machine.h"

namespace hopfill::emulator {

u32 thread_index() { return Machine::self().id; }
u32 block_index() { return Machine::self().block->index; }
u32 grid_size() { return static_cast<u32>(Machine::current().launch.grid); }

u8* shared_memory() { return Machine::self().block->shared; }

u32 shared_address(const void* p, Site at) {
    const Block& b = *Machine::self().block;
    const u8* at_byte = static_cast<const u8*>(p);
    if (at_byte < b.shared || at_byte > b.shared + kSharedLimit)
        fail("shared-out-of-bounds", "a pointer outside shared memory where one to it is needed", at);
    return static_cast<u32>(at_byte - b.shared) + kWindowStart;
}

u32 shared_offset(const void* p, u32 bytes, u32 alignment, const char* what, const Site& at) {
    const Block& b = *Machine::self().block;
    const i64 offset = static_cast<const u8*>(p) - b.shared;
    if (offset < 0 || offset + bytes > b.shared_bytes)
        fail("shared-out-of-bounds",
             fmt::format("{} touches bytes {} to {} of dynamic shared memory, of which the launch has {}", what, offset, offset + bytes - 1,
                         b.shared_bytes),
             at);
    if (offset % alignment != 0)
        fail("alignment", fmt::format("{} at byte {} of dynamic shared memory, which must be a multiple of {}", what, offset, alignment), at);
    return static_cast<u32>(offset);
}

namespace {

void shared_access(const void* p, u32 bytes, bool write, const Site& at) {
    Thread& t = Machine::self();
    const char* what = write ? "a store" : "a load";
    const u32 offset = shared_offset(p, bytes, bytes, what, at);
    const Actor actor{t.clock.data(), t.agent(), t.epoch(), false, Machine::current().site_index(at)};
    const Conflict c = write ? t.block->shadow.write(offset, bytes, actor) : t.block->shadow.read(offset, bytes, actor);
    if (c.kind != Conflict::none) fail_conflict(*t.block, c, what, write, false, at);
}

}  // namespace

void shared_read(const void* p, u32 bytes, Site at) { shared_access(p, bytes, false, at); }
void shared_write(const void* p, u32 bytes, Site at) { shared_access(p, bytes, true, at); }

void poison_used(Site at) {
    fail("register-in-flight", "a value comes from accumulators that a wgmma in flight still writes: wgmma_wait is missing before", at);
}

const Buffer& global_access(const void* p, std::size_t bytes, bool write, const char* what, const Site& at) {
    Machine& m = Machine::current();
    Thread& t = Machine::self();
    const Buffer* b = m.buffer_of(p, bytes);
    if (b == nullptr) {
        std::string near;
        i64 best = i64{1} << 40;
        for (const Buffer& x : m.launch.buffers) {
            const i64 past = static_cast<const u8*>(p) - static_cast<const u8*>(x.begin);
            const i64 distance = past < 0 ? -past : past - static_cast<i64>(x.bytes);
            if (distance < best) {
                best = distance;
                near = fmt::format(": byte {} of {}, which has {}", past, x.name, x.bytes);
            }
        }
        fail("global-out-of-bounds", fmt::format("{} of {} bytes at {} is outside every tensor{}", what, bytes, p, near), at);
    }
    if (write && !b->writable) fail("global-out-of-bounds", fmt::format("{} to {}, which is read only", what, b->name), at);
    if (t.clock[ClockLayout::kLaunch] == 0 && m.early_access.empty())
        m.early_access = fmt::format("dependency: {} of {} before wait_for_previous_launch\n  {} at {}", what, b->name, describe(t), describe(at));
    return *b;
}

bool Observation::tells(u32 block, const Moment& store) const {
    const auto known = blocks.find(block);
    return known != blocks.end() && store.seen_by(known->second);
}

bool Observation::fenced_for(const Clock& clock) const {
    return std::ranges::any_of(fences, [&](const Moment& fence) { return fence.seen_by(clock); });
}

namespace {

// What a thread must do after a store to a buffer that is exchanged, and this thread before it loads that or stores over it; null: it has been done.
const char* missing_between(const ByteStore& store, const Thread& t) {
    if (store.block == t.block->index) return store.at.seen_by(t.clock) ? nullptr : "with no barrier between";
    bool told = false;
    // The last one mostly says it.
    const std::vector<Observation>& all = t.block->observations;
    for (auto o = all.rbegin(); o != all.rend(); ++o) {
        if (!o->tells(store.block, store.at)) continue;
        if (o->fenced_for(t.clock)) return nullptr;
        told = true;
    }
    return told ? "with an atomic between, but no fence_device after it that this thread has seen" : "with no fence_device and atomic between";
}

void exchanged_access(const void* p, u32 bytes, bool write, const char* what, const Site& at) {
    Machine& m = Machine::current();
    const Thread& t = Machine::self();
    const ByteStore now{t.block->index, {t.agent(), t.epoch()}, write ? m.site_index(at) : u16{0}};
    ByteStore known = now;
    // Aligned accesses lie within 16 bytes.
    const u64 begin = reinterpret_cast<u64>(p);
    for (ByteStore& store : std::span(m.stored_bytes[begin / 16]).subspan(begin % 16, bytes)) {
        if (store.at.epoch == 0) {
            if (!write) fail("uninitialised-read", fmt::format("{} of global memory that nothing has been stored to in this launch", what), at);
        } else if (store.block != known.block || store.at.agent != known.at.agent || store.at.epoch > known.at.epoch) {
            if (const char* missing = missing_between(store, t); missing != nullptr)
                fail("race",
                     fmt::format("{} {} global memory that thread {} of block {} stores to at {}, {}", what, write ? "to" : "of",
                                 store.at.agent - ClockLayout::thread(0), store.block, describe(m.site(store.site)), missing),
                     at);
            known = store;
        }
        if (write) store = now;
    }
}

const Buffer& scalar_access(const void* p, u32 bytes, bool write, const char* what, const Site& at) {
    if (reinterpret_cast<u64>(p) % bytes != 0) fail("alignment", fmt::format("{} of {} bytes at {}", what, bytes, p), at);
    return global_access(p, bytes, write, what, at);
}

}  // namespace

void global_read(const void* p, u32 bytes, Site at) {
    if (scalar_access(p, bytes, false, "a load", at).exchanged) exchanged_access(p, bytes, false, "a load", at);
}

namespace {

// Who waits for a word looks again.
void wake_waiters(const void* p) {
    Machine& m = Machine::current();
    std::erase_if(m.word_waiters, [&](const auto& waiter) {
        if (waiter.first != p) return false;
        m.wake(*waiter.second);
        return true;
    });
}

}  // namespace

// A plain store to a word that blocks share through atomics must come after all their accesses: they were followed by fence_device, of a thread
// that had seen them, and an atomic that this block has seen.
void global_write(const void* p, u32 bytes, Site at) {
    if (scalar_access(p, bytes, true, "a store", at).exchanged) exchanged_access(p, bytes, true, "a store", at);
    Machine& m = Machine::current();
    wake_waiters(p);
    const auto word = m.shared_words.find(p);
    if (word == m.shared_words.end()) return;
    const Thread& t = Machine::self();
    const Block& block = *t.block;
    i32 own_turn = 0;
    for (const auto& [storer, turn] : word->second.turns)
        if (storer.first == block.index && word->second.moments.at(storer).seen_by(t.clock)) own_turn = std::max(own_turn, turn);
    for (const auto& [other, when] : word->second.accesses) {
        const auto known = block.view.find(other);
        const auto turn = word->second.turns.find(other);
        if (turn != word->second.turns.end() && own_turn > turn->second) continue;
        if (other.first != block.index && (known == block.view.end() || known->second < when))
            fail("race",
                 fmt::format("a store to a word of global memory that thread {} of block {} has an atomic on, with no fence_device and atomic "
                             "between",
                             other.second, other.first),
                 at);
    }
}

namespace {

// What an atomic, or a wait for others' atomics, does to who has seen what. That an atomic comes later says nothing of a wait.
void touch_word(SharedWord& word, bool wait) {
    Thread& t = Machine::self();
    Block& block = *t.block;
    for (const auto& [other, when] : word.released) block.view[other] = std::max(block.view[other], when);
    join_groups(t.known_stores, word.stores);
    const Storer self{block.index, t.id};
    word.accesses[self] = ++block.view[self];
    if (wait)
        word.turns.erase(self);
    else
        word.turns[self] = ++word.turn;
    word.moments[self] = {t.agent(), t.epoch()};
    block.atomics[t.id].push_back(word.moments[self]);
    if (word.blocks.empty()) return;
    // A wait is its own fence.
    block.observations.push_back({word.moments[self], word.blocks, {}});
    if (wait) block.observations.back().fences.push_back(word.moments[self]);
}

// Returns the old value.
u32 atomic_access(u32* p, Site at) {
    scalar_access(p, 4, true, "an atomic", at);
    Machine& m = Machine::current();
    m.linger();
    const Thread& t = Machine::self();
    SharedWord& word = m.shared_words[p];
    for (const auto& [other, when] : t.fenced_view) word.released[other] = std::max(word.released[other], when);
    if (t.bulk_released > 0) join_groups(word.stores, {{{t.block->index, t.id}, t.bulk_released}});
    join_blocks(word.blocks, t.fenced_blocks);
    touch_word(word, false);
    return *p;
}

}  // namespace

u32 global_add(u32* p, u32 v, Site at) {
    const u32 old = atomic_access(p, at);
    *p = old + v;
    wake_waiters(p);
    return old;
}

void wait_global(const u32* p, u32 least, Site at) {
    scalar_access(p, 4, false, "a load", at);
    Machine& m = Machine::current();
    Thread& t = Machine::self();
    m.linger();
    while (*p < least) {
        m.word_waiters.push_back({p, &t});
        m.block_thread(t, {Waiting::word, "", least, nullptr, at});
    }
    touch_word(m.shared_words[p], true);
}

void join_groups(StoredGroups& to, const StoredGroups& from) {
    for (const auto& [storer, group] : from) to[storer] = std::max(to[storer], group);
}

void join_blocks(BlockClocks& to, const BlockClocks& from) {
    for (const auto& [block, clock] : from)
        if (const auto [known, fresh] = to.try_emplace(block, clock); !fresh) known->second.join(clock);
}

void fence_async_global() {
    Thread& t = Machine::self();
    t.known_to_async = t.known_stores;
}

u32 global_max(u32* p, u32 v, Site at) {
    const u32 old = atomic_access(p, at);
    *p = std::max(old, v);
    wake_waiters(p);
    return old;
}

namespace {

// A fence covers what the thread has seen: its own stores, those before a barrier, and what atomics told of other blocks'.
void fence_exchanged(Thread& t) {
    Block& block = *t.block;
    for (Observation& o : block.observations) {
        if (!o.at.seen_by(t.clock)) continue;
        if (!o.fenced_for(t.clock)) o.fences.push_back({t.agent(), t.epoch()});
        join_blocks(t.fenced_blocks, o.blocks);
    }
    join_blocks(t.fenced_blocks, {{block.index, t.clock}});
    // Stores that follow are not covered.
    t.tick();
}

}  // namespace

void fence_device() {
    Thread& t = Machine::self();
    t.bulk_released = t.bulk_written;
    Block& block = *t.block;
    t.fenced_view = block.view;
    for (const auto& [thread, moments] : block.atomics) {
        const auto seen = std::ranges::count_if(moments, [&](const Moment& moment) { return moment.seen_by(t.clock); });
        t.fenced_view[{block.index, thread}] = static_cast<i32>(seen);
    }
    if (Machine::current().exchanging) fence_exchanged(t);
}

void trap(Site at) { fail("trap", "the trap instruction", at); }

void wait_for_previous_launch(Site) {
    Thread& t = Machine::self();
    Machine::current().previous_launch_waited = true;
    t.clock[ClockLayout::kLaunch] = 1;
}

}  // namespace hopfill::emulator
