// What faults say: roles, places, who waits for what.
#include <fmt/format.h>

#include <cstring>

#include "emulator/machine.h"

namespace hopfill::emulator {
namespace {

std::string lanes_text(u32 lanes) {
    if (lanes == 0xffffffffu) return "all lanes";
    if ((lanes & (lanes - 1)) == 0) return fmt::format("lane {}", __builtin_ctz(lanes));
    return fmt::format("lanes {:08x}", lanes);
}

std::string role(const Block& block, u32 warp) {
    const u32 group = warp / 4;
    bool multiplies = false;
    for (u32 w = 4 * group; w < 4 * group + 4 && w < block.warps.size(); ++w) multiplies |= block.warps[w].multiplies;
    if (multiplies) return fmt::format("consumer warpgroup {}", group);
    if (block.warps[warp].loads) return fmt::format("producer, warpgroup {}", group);
    return fmt::format("warpgroup {}", group);
}

std::string waits_for(const Block& block, const Waiting& w) {
    switch (w.what) {
        case Waiting::nothing:
            return "can run";
        case Waiting::collective:
            return fmt::format("waits for the other lanes of its warp in {}", w.name);
        case Waiting::mbarrier: {
            const Mbarrier& b = *w.bar;
            return fmt::format("waits for phase {} (parity {}) of mbarrier {}: {} of {} arrivals and {} bytes are missing in phase {}", w.detail,
                               w.detail & 1, describe_shared(b.offset), b.pending, b.count, b.bytes, b.phase);
        }
        case Waiting::named_barrier: {
            const NamedBarrier& b = block.named[w.detail];
            return fmt::format("waits at named barrier {}: {} of {} threads have arrived", w.detail, b.arrived, b.threads);
        }
        case Waiting::products: {
            const Warpgroup& g = block.warpgroups[w.warpgroup];
            std::string text = fmt::format("waits for group {} of its matrix products", w.detail);
            if (!g.pending.empty() && g.pending.front().arrived < 128)
                text += fmt::format(", which {} of 128 threads have issued ({})", g.pending.front().arrived, describe(g.pending.front().at));
            return text;
        }
        case Waiting::bulk_read:
            return "waits until its bulk stores have read shared memory";
        case Waiting::bulk_write:
            return "waits for its bulk stores";
        case Waiting::word:
            return fmt::format("waits for a word of global memory to reach {}", w.detail);
        case Waiting::registers:
            return fmt::format("waits in setmaxnreg for {} registers a thread; {} registers of the block are free", w.detail, block.free_registers);
    }
    return {};
}

}  // namespace

const char* name_of(Op op) {
    switch (op) {
        case Op::shuffle:
            return "a shuffle";
        case Op::ballot:
            return "a vote";
        case Op::sync_warp:
            return "sync_warp";
        case Op::elect:
            return "elect_one";
        case Op::store_matrix:
            return "store_matrix";
        case Op::load_matrix:
            return "load_matrix";
        case Op::barrier_sync:
            return "a named barrier (sync)";
        case Op::barrier_arrive:
            return "a named barrier (arrive)";
        case Op::set_registers:
            return "setmaxnreg";
        case Op::wgmma_fence:
            return "wgmma_fence";
        case Op::wgmma_mma:
            return "a wgmma";
        case Op::wgmma_commit:
            return "wgmma_commit";
        case Op::wgmma_wait:
            return "wgmma_wait";
        case Op::exit:
            return "the kernel's end";
    }
    return "";
}

std::string describe(const Site& at) {
    const char* file = at.file_name();
    if (const char* src = std::strstr(file, "src/kernels/")) file = src;
    return fmt::format("{}:{}", file, at.line());
}

std::string describe_shared(u32 offset) { return fmt::format("0x{:x} (byte {} of dynamic shared memory)", offset + kWindowStart, offset); }

std::string describe(const Thread& t) {
    return fmt::format("block {} warp {} lane {} ({})", t.block->index, t.warp->id, t.lane, role(*t.block, t.warp->id));
}

std::string describe(const Block& block, Agent agent) {
    if (ClockLayout::is_thread(agent)) return describe(block.threads[agent - ClockLayout::kProxies]);
    if (const auto it = block.agent_names.find(agent); it != block.agent_names.end()) return it->second;
    return fmt::format("a wgmma of warpgroup {}", agent - ClockLayout::kWarpgroups);
}

void fail(const char* kind, const std::string& text, const Site& at) {
    Machine& m = Machine::current();
    m.fault(kind, fmt::format("{}: {}\n  {} at {}", kind, text, describe(Machine::self()), describe(at)));
    m.stop_fiber();
}

void fail_conflict(Block& block, const Conflict& c, const char* what, bool write, bool async, const Site& at) {
    const std::string where = describe_shared(c.offset);
    if (c.kind == Conflict::uninitialised)
        fail("uninitialised-read", fmt::format("{} reads shared memory {} that nothing has written", what, where), at);
    if (c.kind == Conflict::on_barrier) fail("barrier-access", fmt::format("{} touches the mbarrier at {}", what, where), at);
    const std::string other = fmt::format("{} at {}", describe(block, c.agent), describe(Machine::current().site(c.site)));
    const bool other_thread = ClockLayout::is_thread(c.agent);
    if (c.kind == Conflict::unfenced)
        fail("missing-proxy-fence",
             fmt::format("{} touches shared memory {} through the async proxy; written by {}, with no fence_async_shared after", what, where, other),
             at);
    if (c.kind == Conflict::unordered_read)
        fail(async || !other_thread ? "overwrite-before-release" : "race",
             fmt::format("{} overwrites shared memory {}, whose read by {} is not known to be over", what, where, other), at);
    if (!write)
        fail(other_thread ? "race" : "read-before-arrival",
             fmt::format("{} reads shared memory {}, whose write by {} is not known to be complete", what, where, other), at);
    fail(other_thread ? "race" : "overwrite-before-release",
         fmt::format("{} overwrites shared memory {}, whose write by {} is not known to be complete", what, where, other), at);
}

void Machine::report_deadlock() {
    const char* kind = "deadlock";
    std::string text;
    for (const auto& block : resident_) {
        for (const Warp& warp : block->warps) {
            u32 shown = 0;
            for (u32 lane = 0; lane < 32; ++lane) {
                const Thread& t = block->threads[warp.id * 32 + lane];
                if (t.finished || (shown >> lane & 1) != 0) continue;
                u32 alike = 0;
                for (u32 other = lane; other < 32; ++other) {
                    const Thread& u = block->threads[warp.id * 32 + other];
                    const Waiting &a = t.waiting, &b = u.waiting;
                    if (!u.finished && a.what == b.what && a.detail == b.detail && a.bar == b.bar && a.at.line() == b.at.line()) alike |= 1u << other;
                }
                shown |= alike;
                if (t.waiting.what == Waiting::registers) kind = "registers";
                if (t.waiting.what == Waiting::mbarrier && t.waiting.bar->pending == 0 && t.waiting.bar->bytes != 0) kind = "byte-count";
                text += fmt::format("\n  block {} warp {} {} ({}) {}, at {}", block->index, warp.id, lanes_text(alike), role(*block, warp.id),
                                    waits_for(*block, t.waiting), describe(t.waiting.at));
            }
        }
    }
    fault(kind, fmt::format("{}: no thread can run and nothing is in flight{}", kind, text));
}

}  // namespace hopfill::emulator
