// Fibers, random schedules and the end of a run.
#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <new>

#include "emulator/machine.h"

namespace hopfill::emulator {
namespace {

thread_local Machine* t_machine = nullptr;
thread_local Thread* t_thread = nullptr;

// Stacks with a guard page below, kept for the next block and the next run. A kernel's registers are its stack: 128 KB hold any that a GPU could.
class Stacks {
public:
    static constexpr std::size_t kBytes = 128 << 10;
    static constexpr std::size_t kGuard = 4096;

    Stacks() = default;
    Stacks(const Stacks&) = delete;
    Stacks& operator=(const Stacks&) = delete;
    ~Stacks() {
        for (void* p : all_) munmap(p, kBytes);
    }

    boost::context::stack_context allocate() {
        if (free_.empty()) {
            void* p = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
            if (p == MAP_FAILED) throw std::bad_alloc();
            mprotect(p, kGuard, PROT_NONE);
            all_.push_back(p);
            free_.push_back(p);
        }
        boost::context::stack_context s;
        s.size = kBytes;
        s.sp = static_cast<char*>(free_.back()) + kBytes;
        free_.pop_back();
        return s;
    }
    void release(const boost::context::stack_context& s) { free_.push_back(static_cast<char*>(s.sp) - s.size); }

private:
    std::vector<void*> all_, free_;
};
thread_local Stacks t_stacks;

struct StackAllocator {
    boost::context::stack_context allocate() { return t_stacks.allocate(); }
    void deallocate(boost::context::stack_context& s) noexcept { t_stacks.release(s); }
};

}  // namespace

Thread& Machine::self() { return *t_thread; }
Machine& Machine::current() { return *t_machine; }

Block::Block(Machine& m, u32 block_index)
    : machine(m),
      index(block_index),
      layout{m.launch.threads},
      shared_bytes(static_cast<u32>(m.launch.shared_bytes)),
      shadow(static_cast<u32>(m.launch.shared_bytes), layout),
      threads(static_cast<std::size_t>(m.launch.threads)),
      warps(static_cast<std::size_t>(m.launch.threads) / 32),
      warpgroups((static_cast<std::size_t>(m.launch.threads) + 127) / 128) {
    for (std::size_t i = 0; i < m.arenas_.size(); ++i) {
        if (!m.arena_used_[i]) {
            m.arena_used_[i] = true;
            arena_slot = static_cast<int>(i);
            shared = m.arenas_[i];
            break;
        }
    }
    std::memset(shared, kSharedPoison, kSharedLimit);
    for (std::size_t w = 0; w < warps.size(); ++w) {
        warps[w].block = this;
        warps[w].id = static_cast<u32>(w);
        warps[w].ready = 0xffffffffu;
        warps[w].sync[0] = warps[w].sync[1] = Clock(layout);
        warps[w].registers = static_cast<u32>(m.registers);
        warps[w].weight = 1u << m.random.below(5);
    }
    for (std::size_t w = 0; w < warpgroups.size(); ++w) warpgroups[w].id = static_cast<u32>(w);
    live = static_cast<u32>(threads.size());
    for (u32 i = 0; i < live; ++i) {
        Thread& t = threads[i];
        t.block = this;
        t.id = i;
        t.lane = i % 32;
        t.warp = &warps[i / 32];
        t.clock = Clock(layout);
        t.tick();
        t.fiber = boost::context::fiber(std::allocator_arg, StackAllocator{}, [&m, &t](boost::context::fiber&& from) {
            m.scheduler_ = std::move(from);
            m.kernel();
            check_exit(t);
            t.finished = true;
            t.warp->ready &= ~(1u << t.lane);
            --t.block->live;
            return std::move(m.scheduler_);
        });
    }
}

Block::~Block() {
    // Abandoned fibers unwind here, with their block still whole.
    for (Thread& t : threads) t.fiber = {};
    machine.arena_used_[static_cast<std::size_t>(arena_slot)] = false;
}

Agent Block::new_agent(std::string name) {
    if (agents == ClockLayout::kProxies) machine.fault("limit", "the emulator knows 119 mbarriers and storing threads in a block");
    agent_names[static_cast<Agent>(agents)] = std::move(name);
    return static_cast<Agent>(agents++);
}

Machine::Machine(const Launch& l, const std::function<void()>& k, const Options& o)
    : launch(l),
      kernel(k),
      options(o),
      random(o.seed),
      elected_lane(random.below(32)),
      exchanging(std::ranges::any_of(l.buffers, &Buffer::exchanged)),
      max_steps_(o.max_steps != 0 ? o.max_steps : 400'000'000) {
    max_resident_ = options.resident > 0 ? options.resident : static_cast<int>(1 + random.below(3));
    // Registers are given to warps in units of 8 a thread; a thread has at most 255, for which 256 are set aside.
    const int all = std::min(256, 65536 / std::max(launch.threads, 32) / 8 * 8);
    registers = launch.registers > 0 ? launch.registers : all;
    const std::size_t stride = static_cast<std::size_t>(kSharedLimit + 1024);
    arena_memory_ = std::make_unique<u8[]>(stride * static_cast<std::size_t>(max_resident_) + 1024);
    u8* first = arena_memory_.get() + (1024 - reinterpret_cast<std::uintptr_t>(arena_memory_.get()) % 1024) % 1024;
    for (int i = 0; i < max_resident_; ++i) arenas_.push_back(first + stride * static_cast<std::size_t>(i));
    arena_used_.assign(arenas_.size(), false);
}

void Machine::fault(const char* kind, std::string text) {
    if (failed()) return;
    text += fmt::format("\n  seed {}, step {}", options.seed, steps_);
    report_.faults.push_back({kind, std::move(text)});
}

void Machine::stop_fiber() {
    running_->waiting = {};
    scheduler_ = std::move(scheduler_).resume();
    __builtin_unreachable();
}

void Machine::block_thread(Thread& t, const Waiting& what) {
    t.waiting = what;
    t.warp->ready &= ~(1u << t.lane);
    scheduler_ = std::move(scheduler_).resume();
}

void Machine::wake(Thread& t) {
    t.waiting = {};
    t.warp->ready |= 1u << t.lane;
}

void Machine::maybe_yield(u32 one_in) {
    if (random.one_in(one_in)) scheduler_ = std::move(scheduler_).resume();
}

void Machine::linger() {
    if (random.one_in(2)) running_->warp->starved_until = steps_ + random.below(2000);
    maybe_yield(2);
}

void Machine::fall_behind() {
    maybe_yield(16);
    if (!random.one_in(256)) return;
    Warp& w = *running_->warp;
    if (w.held_until <= steps_) w.held = 0;
    w.held |= 1u << running_->lane;
    w.held_until = steps_ + random.below(3000);
    maybe_yield(1);
}

// Latencies from none to long, so that copies overtake each other and the threads.
void Machine::schedule(Block& block, std::function<void()> run) {
    constexpr u32 kLatency[] = {1, 4, 16, 64, 256};
    ++block.operations;
    operations_.push_back({steps_ + random.below(kLatency[random.below(5)]), &block, std::move(run)});
}

u16 Machine::site_index(const Site& at) {
    const u64 key = (reinterpret_cast<u64>(at.file_name()) << 24) ^ (u64{at.line()} << 8) ^ at.column();
    const auto [it, fresh] = site_of_.try_emplace(key, static_cast<u16>(sites_.size()));
    if (fresh) sites_.push_back(at);
    return it->second;
}

const Buffer* Machine::buffer_of(const void* p, std::size_t bytes) const {
    const auto at = reinterpret_cast<std::uintptr_t>(p);
    for (const Buffer& b : launch.buffers) {
        const auto begin = reinterpret_cast<std::uintptr_t>(b.begin);
        if (at >= begin && at - begin <= b.bytes && b.bytes - (at - begin) >= bytes) return &b;
    }
    return nullptr;
}

void Machine::start_blocks() {
    while (static_cast<int>(resident_.size()) < max_resident_ && next_block_ < static_cast<u32>(launch.grid)) {
        resident_.push_back(std::make_unique<Block>(*this, next_block_++));
    }
}

Warp* Machine::choose_warp(bool& starving) {
    // Now and then a warp's chances change, or it or some of its lanes are left standing for a while.
    if (random.one_in(32)) {
        Block& b = *resident_[random.below(static_cast<u32>(resident_.size()))];
        Warp& w = b.warps[random.below(static_cast<u32>(b.warps.size()))];
        w.weight = 1u << random.below(5);
        if (random.one_in(4)) w.starved_until = steps_ + random.below(random.one_in(8) ? 3000 : 200);
        if (random.one_in(4)) {
            w.held = static_cast<u32>(random.next());
            w.held_until = steps_ + random.below(400);
        }
    }
    Warp* chosen = nullptr;
    u32 total = 0;
    Warp* starved = nullptr;
    for (const auto& block : resident_) {
        for (Warp& w : block->warps) {
            if (w.ready == 0) continue;
            if (w.starved_until > steps_ || w.free(steps_) == 0) {
                starved = &w;
                continue;
            }
            total += w.weight;
            if (random.below(total) < w.weight) chosen = &w;
        }
    }
    starving = chosen == nullptr;
    return chosen != nullptr ? chosen : starved;
}

void Machine::run_warp(Warp& warp) {
    const u32 start = random.one_in(4) ? random.below(32) : 0;
    const u32 held = warp.free(steps_) != 0 && warp.held_until > steps_ ? warp.held : 0;
    for (u32 i = 0; i < 32 && !failed(); ++i) {
        const u32 lane = (start + i) % 32;
        if (((warp.ready & ~held) >> lane & 1) == 0) continue;
        Thread& t = warp.block->threads[warp.id * 32 + lane];
        running_ = t_thread = &t;
        t.fiber = std::move(t.fiber).resume();
        running_ = t_thread = nullptr;
    }
}

bool Machine::step() {
    ++steps_;
    // Operations whose time has come, in random order with the warps.
    if (!operations_.empty()) {
        const u32 at = random.below(static_cast<u32>(operations_.size()));
        if (operations_[at].due <= steps_) {
            Operation op = std::move(operations_[at]);
            operations_[at] = std::move(operations_.back());
            operations_.pop_back();
            --op.block->operations;
            op.run();
            if (failed()) return false;
            return true;
        }
    }
    // What is left standing mostly lets operations go first that are not due yet.
    bool starving = false;
    Warp* const warp = choose_warp(starving);
    if (warp != nullptr && (!starving || operations_.empty() || random.one_in(8))) {
        run_warp(*warp);
        Block& block = *warp->block;
        if (!failed() && block.live == 0) check_block_exit(block);
        return !failed();
    }
    if (operations_.empty()) return false;
    const auto next = std::min_element(operations_.begin(), operations_.end(), [](const Operation& a, const Operation& b) { return a.due < b.due; });
    steps_ = std::max(steps_, next->due);
    Operation op = std::move(*next);
    *next = std::move(operations_.back());
    operations_.pop_back();
    --op.block->operations;
    op.run();
    return !failed();
}

Report Machine::run() {
    Machine* const outer = t_machine;
    Thread* const outer_thread = t_thread;
    t_machine = this;
    if (launch.threads <= 0 || launch.threads > 1024 || launch.threads % 32 != 0)
        fault("launch", fmt::format("{} threads a block; 32 to 1024 in whole warps are possible", launch.threads));
    else if (launch.shared_bytes < 0 || launch.shared_bytes > kSharedLimit)
        fault("launch", fmt::format("{} bytes of dynamic shared memory; a block of sm_90 may have {}", launch.shared_bytes, kSharedLimit));
    else if (i64{registers} * launch.threads > 65536)
        fault("launch", fmt::format("{} registers a thread times {} threads; a block of sm_90 may have 65536", registers, launch.threads));
    while (!failed()) {
        std::erase_if(resident_, [](const std::unique_ptr<Block>& b) { return b->live == 0 && b->operations == 0; });
        start_blocks();
        if (resident_.empty()) break;
        const bool moved = step();
        if (failed()) break;
        if (!moved) {
            report_deadlock();
            break;
        }
        if (steps_ > max_steps_) fault("livelock", fmt::format("no end after {} scheduling steps", steps_));
    }
    if (!failed() && (launch.programmatic || previous_launch_waited) && !early_access.empty()) fault("dependency", early_access);
    operations_.clear();
    resident_.clear();
    t_machine = outer;
    t_thread = outer_thread;
    report_.steps = steps_;
    return std::move(report_);
}

Report emulate(const Launch& launch, const std::function<void()>& kernel, const Options& options) {
    Machine machine(launch, kernel, options);
    return machine.run();
}

}  // namespace hopfill::emulator
