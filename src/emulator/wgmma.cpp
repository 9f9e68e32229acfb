// Asynchronous matrix products of a warpgroup (PTX ISA 9.7.15.5).
//
// A product is issued when its 128 threads have reached it, done some time later in order, and its results appear in a thread's registers when
// the thread's wgmma_wait covers it. Until then accumulators hold poison.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "emulator/formats.h"
#include "emulator/machine.h"
#include "emulator/matmul.h"
#include "emulator/operand.h"

namespace hopfill::emulator {
namespace {

u64 hash_of(const void* p, u32 bytes) {
    u64 h = 0x9e3779b97f4a7c15ull;
    for (u32 i = 0; i < bytes; i += 8) {
        u64 v;
        std::memcpy(&v, static_cast<const u8*>(p) + i, 8);
        h = (h ^ v) * 0xff51afd7ed558ccdull;
        h ^= h >> 32;
    }
    return h;
}

// Registers that a product uses must be as they were at the last wgmma_fence (or be written by products alone since). A group that starts on
// registers of its own needs a fence even if nothing was written: ptxas injects the missing one with warning C7519, which is a build error here.
void check_fenced(Thread& t, const void* registers, u32 bytes, const char* what, const Site& at) {
    if (!t.fenced) fail("missing-wgmma-fence", "the thread's first wgmma has no wgmma_fence before it", at);
    if (t.committed_since_fence) fail("missing-wgmma-fence", "a group of products begins with no wgmma_fence since the group before it", at);
    for (KnownRegisters& k : t.known) {
        if (k.at != registers || k.bytes != bytes) continue;
        if (k.hash != hash_of(registers, bytes)) fail("missing-wgmma-fence", fmt::format("{} written since the last wgmma_fence", what), at);
        return;
    }
    if (t.retired_since_fence)
        fail("missing-wgmma-fence", fmt::format("{} used for the first time, with no wgmma_fence since the last wgmma_wait", what), at);
    t.known.push_back({registers, bytes, hash_of(registers, bytes)});
    if (t.known.size() > 256) t.known.erase(t.known.begin());
}

void remember(Thread& t, const void* registers, u32 bytes) {
    for (KnownRegisters& k : t.known) {
        if (k.at == registers && k.bytes == bytes) k.hash = hash_of(registers, bytes);
    }
}

// Accumulator i of thread t: row and column in the 64 x n result.
u32 fragment_index(u32 thread, u32 i, u32 n) {
    const u32 row = thread / 32 * 16 + thread % 32 / 4 + i / 2 % 2 * 8;
    return row * n + i / 4 * 8 + thread % 4 * 2 + i % 2;
}

float element(Elem e, const u8* p) {
    if (e == Elem::e4m3) return from_e4m3(*p);
    u16 v;
    std::memcpy(&v, p, 2);
    return e == Elem::bf16 ? from_bf16(v) : from_f16(v);
}

// The four words of an A fragment into the 64 x k matrix: words 0, 1 are rows r, r + 8 of the first half of K; 2, 3 of the second.
void place_a(std::vector<float>& matrix, u32 thread, const u32* words, Elem e) {
    const u32 per_word = e == Elem::e4m3 ? 4 : 2, k = per_word * 8;
    const u32 row = thread / 32 * 16 + thread % 32 / 4;
    for (u32 w = 0; w < 4; ++w) {
        u8 bytes[4];
        std::memcpy(bytes, &words[w], 4);
        float* to = matrix.data() + (row + w % 2 * 8) * k + w / 2 * (k / 2) + thread % 4 * per_word;
        for (u32 i = 0; i < per_word; ++i) to[i] = element(e, bytes + i * (4 / per_word));
    }
}

template <class Visit>
void for_each_chunk(const Product& p, bool b_operand, Visit visit) {
    const Descriptor d = Descriptor::decode(b_operand ? p.b : p.a);
    if (b_operand && p.shape.b_mn_major) {
        for (u32 k = 0; k < 16; ++k)
            for (u32 eight = 0; eight < static_cast<u32>(p.shape.n) / 8; ++eight) visit(d.mn_major(eight, k), eight, k);
        return;
    }
    const u32 rows = b_operand ? static_cast<u32>(p.shape.n) : 64;
    for (u32 row = 0; row < rows; ++row)
        for (u32 half = 0; half < 2; ++half) visit(d.k_major(row, half), row, half);
}

void check_operand(Block& block, Warpgroup& group, const Product& p, bool b_operand) {
    const char* const name = b_operand ? "B" : "A";
    const Descriptor d = Descriptor::decode(b_operand ? p.b : p.a);
    if (d.reserved_bits || d.base_offset != 0)
        fail("descriptor", fmt::format("descriptor {:#018x} of operand {} has reserved bits or a base offset set", b_operand ? p.b : p.a, name),
             p.at);
    const Actor actor{p.seen.data(), static_cast<Agent>(ClockLayout::kWarpgroups + group.id), static_cast<i32>(p.group) + 1, true,
                      Machine::current().site_index(p.at)};
    for_each_chunk(p, b_operand, [&](u32 address, u32, u32) {
        const u32 offset = address - kWindowStart;
        if (address < kWindowStart || offset + 16 > block.shared_bytes)
            fail("shared-out-of-bounds",
                 fmt::format("operand {} (descriptor {:#018x}) reaches shared address {:#x}; the launch has {} bytes from {:#x}", name,
                             b_operand ? p.b : p.a, address, block.shared_bytes, kWindowStart),
                 p.at);
        const Conflict c = block.shadow.read(offset, 16, actor);
        if (c.kind != Conflict::none) fail_conflict(block, c, b_operand ? "a wgmma (operand B)" : "a wgmma (operand A)", false, true, p.at);
    });
}

void execute(Block& block, Warpgroup& group) {
    Machine& m = block.machine;
    Product& p = group.pending.front();
    const u32 per_chunk = p.shape.elem == Elem::e4m3 ? 16 : 8, k = 2 * per_chunk, n = static_cast<u32>(p.shape.n);
    const u32 bytes = 16 / per_chunk;
    std::vector<float> a = std::move(p.a_matrix), b(k * n);
    if (!p.a_in_registers) {
        a.resize(64 * k);
        for_each_chunk(p, false, [&](u32 address, u32 row, u32 half) {
            const u8* from = block.shared + (address - kWindowStart);
            for (u32 i = 0; i < per_chunk; ++i) a[row * k + half * per_chunk + i] = element(p.shape.elem, from + i * bytes);
        });
    }
    for_each_chunk(p, true, [&](u32 address, u32 row, u32 part) {
        const u8* from = block.shared + (address - kWindowStart);
        if (p.shape.b_mn_major) {
            for (u32 i = 0; i < 8; ++i) b[part * n + row * 8 + i] = element(p.shape.elem, from + i * bytes);
        } else {
            for (u32 i = 0; i < per_chunk; ++i) b[(part * per_chunk + i) * n + row] = element(p.shape.elem, from + i * bytes);
        }
    });
    for (float& v : a) v *= static_cast<float>(p.shape.scale_a);
    for (float& v : b) v *= static_cast<float>(p.shape.scale_b);
    if (!p.shape.accumulate) std::fill(p.chain->d.begin(), p.chain->d.end(), 0.0f);
    if (m.options.exact_sums)
        multiply_exactly(p.chain->d.data(), a.data(), b.data(), p.shape.n, static_cast<int>(k), p.shape.elem);
    else
        multiply(p.chain->d.data(), a.data(), b.data(), p.shape.n, static_cast<int>(k));
    group.pending.pop_front();
    ++group.first;
    for (Thread* t : group.waiters) m.wake(*t);
    group.waiters.clear();
}

InFlight* find_in_flight(Thread& t, const float* d, int count, const Site& at) {
    for (InFlight& f : t.in_flight) {
        if (f.d == d && f.count == count) return &f;
        if (d < f.d + f.count && f.d < d + count)
            fail("register-in-flight", fmt::format("accumulators overlap those of the wgmma in flight from {} with another shape", describe(f.at)),
                 at);
    }
    return nullptr;
}

void check_a(const FlightA& f, const Site& at) {
    for (u32 i = 0; i < 4; ++i) {
        if (f.a[i] != kPoison)
            fail("register-in-flight", fmt::format("registers of operand A were written while the wgmma from {} still read them", describe(f.at)),
                 at);
    }
}

// The words of operand A, which the registers give up for poison: neither writing nor reading them is defined until wgmma_wait. A product may take
// the same registers as one in flight.
const u32* take_a(Thread& t, const u32* registers, const Site& at) {
    for (FlightA& f : t.flight_a) {
        if (f.a != registers) continue;
        check_a(f, at);
        f.group = t.groups;
        return f.value;
    }
    check_fenced(t, registers, 16, "the registers of operand A", at);
    for (u32 i = 0; i < 4; ++i) {
        if ((registers[i] & 0x7fffffffu) == kPoison) poison_used(at);
    }
    u32* const a = const_cast<u32*>(registers);
    t.flight_a.push_back({a, {a[0], a[1], a[2], a[3]}, t.groups, at});
    std::fill_n(a, 4, kPoison);
    return t.flight_a.back().value;
}

}  // namespace

void wgmma_fence(Site at) {
    Thread& t = Machine::self();
    const u64 number = t.collectives;
    join(t, Op::wgmma_fence, 0, at);
    leave(t, number);
    t.fenced = true;
    t.retired_since_fence = t.committed_since_fence = false;
    for (KnownRegisters& k : t.known) k.hash = hash_of(k.at, k.bytes);
}

void wgmma_commit(Site at) {
    Thread& t = Machine::self();
    const u64 number = t.collectives;
    join(t, Op::wgmma_commit, 0, at);
    leave(t, number);
    ++t.groups;
    t.committed_since_fence = true;
    Machine::current().maybe_yield(64);
}

void wgmma(const WgmmaShape& shape, float* d, const u32* a_registers, u64 a, u64 b, Site at) {
    Thread& t = Machine::self();
    Block& block = *t.block;
    Machine& m = Machine::current();
    const u64 number = t.collectives;
    join(t, Op::wgmma_mma, 0, at);
    leave(t, number);
    t.warp->multiplies = true;
    Warpgroup& group = block.warpgroups[t.id / 128];
    const u32 in_group = t.id % 128, count = static_cast<u32>(shape.n) / 2;
    const u64 place = t.products++ - group.first;
    InFlight* flight = find_in_flight(t, d, static_cast<int>(count), at);
    if (place == group.pending.size()) {
        const u32 first = t.id / 128 * 128;
        for (u32 u = first; u < first + 128 && u < block.threads.size(); ++u) {
            if (block.threads[u].groups > t.groups)
                fail("divergence",
                     fmt::format("the warpgroup is not converged: this thread issues a wgmma of group {}, which {} has closed without it", t.groups,
                                 describe(block.threads[u])),
                     at);
        }
        Product fresh;
        fresh.shape = shape;
        fresh.a = a;
        fresh.b = b;
        fresh.a_in_registers = a_registers != nullptr;
        fresh.at = at;
        fresh.group = t.groups;
        fresh.starts_chain = flight == nullptr;
        if (flight != nullptr) {
            fresh.chain = flight->chain;
        } else {
            fresh.chain = std::make_shared<Chain>();
            fresh.chain->n = shape.n;
            fresh.chain->d.resize(64 * static_cast<std::size_t>(shape.n));
        }
        fresh.seen = Clock(block.layout, 0x7fffffff);
        if (a_registers != nullptr) fresh.a_matrix.resize(64u * (shape.elem == Elem::e4m3 ? 32 : 16));
        group.pending.push_back(std::move(fresh));
    }
    Product& p = group.pending[place];
    if (!(p.shape == shape) || p.a != a || p.b != b || p.a_in_registers != (a_registers != nullptr) || p.at.line() != at.line() ||
        p.group != t.groups || p.starts_chain != (flight == nullptr))
        fail("divergence",
             fmt::format("the warpgroup is not converged: this thread issues its wgmma number {} with other operands, in another group or at another "
                         "place than others did at {}",
                         t.products - 1, describe(p.at)),
             at);
    if (flight == nullptr) {
        check_fenced(t, d, count * 4, "accumulators", at);
        float* to = p.chain->d.data();
        for (u32 i = 0; i < count; ++i) {
            if (shape.accumulate && is_poison(d[i])) poison_used(at);
            to[fragment_index(in_group, i, static_cast<u32>(shape.n))] = d[i];
            d[i] = from_bits(kPoison);
        }
        t.in_flight.push_back({d, static_cast<int>(count), p.chain, t.groups, at});
    } else {
        flight->group = t.groups;
    }
    if (a_registers != nullptr) place_a(p.a_matrix, in_group, take_a(t, a_registers, at), shape.elem);
    p.seen.meet(t.clock);
    if (++p.arrived < 128) return;
    if (!p.a_in_registers) check_operand(block, group, p, false);
    check_operand(block, group, p, true);
    m.schedule(block, [&block, &group] { execute(block, group); });
}

void wgmma_wait(u32 pending, Site at) {
    Thread& t = Machine::self();
    Machine& m = Machine::current();
    const u64 number = t.collectives;
    join(t, Op::wgmma_wait, pending, at);
    leave(t, number);
    m.maybe_yield(64);
    const u64 target = t.groups > pending ? t.groups - pending : 0;
    if (target <= t.retired) return;
    Warpgroup& group = t.block->warpgroups[t.id / 128];
    for (u64 i = t.products - group.first; i < group.pending.size(); ++i) {
        const Product& p = group.pending[i];
        if (p.group < target)
            fail("divergence",
                 fmt::format("the warpgroup is not converged: this thread waits for group {}, of which {} other threads have issued a wgmma at {} "
                             "that it has not",
                             target - 1, p.arrived, describe(p.at)),
                 at);
    }
    while (!group.pending.empty() && group.pending.front().group < target) {
        group.waiters.push_back(&t);
        m.block_thread(t, {Waiting::products, "", target - 1, nullptr, at, group.id});
    }
    t.retired = target;
    t.retired_since_fence = true;
    i32& seen = t.clock[ClockLayout::kWarpgroups + static_cast<int>(group.id)];
    seen = std::max(seen, static_cast<i32>(target));
    std::erase_if(t.flight_a, [&](const FlightA& f) {
        if (f.group >= target) return false;
        check_a(f, at);
        std::copy_n(f.value, 4, f.a);
        remember(t, f.a, sizeof f.value);
        return true;
    });
    std::erase_if(t.in_flight, [&](const InFlight& f) {
        if (f.group >= target) return false;
        const u32 n = static_cast<u32>(f.chain->n);
        for (int i = 0; i < f.count; ++i) {
            if (to_bits(f.d[i]) != kPoison)
                fail("register-in-flight", fmt::format("accumulator {} was written while the wgmma from {} was in flight", i, describe(f.at)), at);
            f.d[i] = f.chain->d[fragment_index(t.id % 128, static_cast<u32>(i), n)];
        }
        remember(t, f.d, static_cast<u32>(f.count) * 4);
        return true;
    });
}

}  // namespace hopfill::emulator
