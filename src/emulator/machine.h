// The emulated machine: a grid's resident blocks, their threads as fibers, and what is pending. One Machine runs one launch on one host thread.
#pragma once

#include <array>
#include <boost/context/fiber.hpp>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "emulator/clock.h"
#include "emulator/emulate.h"
#include "emulator/instructions.h"
#include "emulator/random.h"
#include "emulator/shadow.h"

namespace hopfill::emulator {

class Machine;
struct Block;
struct Warp;
struct Warpgroup;
struct Mbarrier;
struct Chain;

constexpr u32 kWindowStart = 1024;  // where dynamic shared memory begins in the shared window: the first KB is the system's
constexpr int kSharedLimit = 227 * 1024;
constexpr u32 kSharedPoison = 0xff;

enum class Op : u8 {
    shuffle,
    ballot,
    sync_warp,
    elect,
    store_matrix,
    load_matrix,
    barrier_sync,
    barrier_arrive,
    set_registers,
    wgmma_fence,
    wgmma_mma,
    wgmma_commit,
    wgmma_wait,
    exit,
};
const char* name_of(Op op);

// What a blocked thread waits for.
struct Waiting {
    enum What : u8 { nothing, collective, mbarrier, named_barrier, products, bulk_read, bulk_write, registers, word } what = nothing;
    const char* name = "";
    u64 detail = 0;  // phase, barrier number, group
    const Mbarrier* bar = nullptr;
    Site at;
    u32 warpgroup = 0;
};

// Accumulators of a warpgroup that consecutive products add to.
struct Chain {
    int n = 0;
    std::vector<float> d;  // 64 x n
};

// A thread's view of registers that a product in flight uses.
struct InFlight {
    float* d;
    int count;
    std::shared_ptr<Chain> chain;
    u64 group;  // of the last product on it
    Site at;
};
// The registers of operand A of products in flight, which hold poison until the last of them has been waited for.
struct FlightA {
    u32* a;
    u32 value[4];
    u64 group;  // of the last product on it
    Site at;
};
// Register arrays that products have used, as they were at the last wgmma_fence.
struct KnownRegisters {
    const void* at;
    u32 bytes;
    u64 hash;
};

struct BulkGroup {
    int stores = 0;
    int reading = 0, writing = 0;  // stores that still read shared memory, that still write global memory
    bool committed = false;
    Site at;
};

// A thread of any block: block and thread.
using Storer = std::pair<u32, u32>;
// How many of each thread's global atomics are known.
using AtomicView = std::map<Storer, i32>;
// Bulk groups of threads, up to which what they stored to global memory is known to be there.
using StoredGroups = std::map<Storer, u64>;
void join_groups(StoredGroups& to, const StoredGroups& from);
// By block, how much of each of its threads is known.
using BlockClocks = std::map<u32, Clock>;
void join_blocks(BlockClocks& to, const BlockClocks& from);

struct Thread {
    Block* block = nullptr;
    Warp* warp = nullptr;
    u32 id = 0, lane = 0;
    boost::context::fiber fiber;
    bool finished = false;
    Waiting waiting;
    Clock clock;
    u64 collectives = 0;  // aligned instructions executed

    // wgmma
    u64 products = 0, groups = 0;  // issued, committed
    u64 retired = 0;               // groups waited for
    bool fenced = false, retired_since_fence = false, committed_since_fence = false;
    std::vector<InFlight> in_flight;
    std::vector<FlightA> flight_a;
    std::vector<KnownRegisters> known;

    // Bulk stores, by group; the last may not be committed yet.
    std::deque<std::shared_ptr<BulkGroup>> bulk;
    u64 first_bulk = 0;        // number of bulk.front()
    u64 bulk_read_waited = 0;  // groups known to have read shared memory
    u64 bulk_written = 0;      // groups known to be in global memory
    Agent bulk_agent = 0;
    // What this thread may tell others, of atomics and of its stores, as at its last fence_device; what it knows of others' stores, and what TMA
    // that it asks for does.
    AtomicView fenced_view;
    u64 bulk_released = 0;
    StoredGroups known_stores, known_to_async;
    BlockClocks fenced_blocks;  // where buffers are exchanged: what it may tell others of their stores, as at its last fence_device

    Agent agent() const { return ClockLayout::thread(id); }
    i32 epoch() const { return clock[ClockLayout::thread(id)]; }
    void tick() { ++clock[ClockLayout::thread(id)]; }
};

// One aligned instruction of a warp: every lane's n-th must be the same.
struct Collective {
    Op op;
    Site at;
    u64 extra = 0;
    u32 arrived = 0, left = 0;  // lanes
    u64 value[32][2] = {};
};

struct Warp {
    Block* block = nullptr;
    u32 id = 0;
    u32 ready = 0;  // lanes that can run
    std::deque<Collective> pending;
    u64 first = 0;          // number of pending.front()
    Clock sync[2];          // clocks gathered by __syncwarp, alternating
    u32 syncs[2] = {0, 0};  // lanes that still have to take them
    u64 sync_count[32] = {};
    u32 weight = 1;  // chance of being run
    u64 starved_until = 0;
    u32 held = 0;  // lanes that are left behind while anything else can run
    u64 held_until = 0;
    u32 free(u64 step) const { return held_until > step ? ready & ~held : ready; }  // of those that are ready
    u32 registers = 0;                       // a thread
    Site registers_at;                       // setmaxnreg that set them
    bool loads = false, multiplies = false;  // what it has been seen doing: names its role
};

struct Product {
    WgmmaShape shape;
    u64 a = 0, b = 0;
    bool a_in_registers = false;
    Site at;
    u64 group = 0;
    std::shared_ptr<Chain> chain;
    bool starts_chain = false;
    int arrived = 0;
    Clock seen;                   // what every thread of the warpgroup had seen when it issued
    std::vector<float> a_matrix;  // 64 x k, when A is in registers
};

struct Warpgroup {
    u32 id = 0;
    std::deque<Product> pending;
    u64 first = 0;            // number of pending.front()
    u64 executed_groups = 0;  // groups below this number are complete
    std::vector<Thread*> waiters;
};

struct Mbarrier {
    u32 offset = 0;
    u32 count = 0, pending = 0;
    i64 bytes = 0;   // expected and not yet arrived
    i64 copies = 0;  // TMA loads of this phase in flight
    i64 copy_bytes = 0;
    u64 phase = 0;        // completed phases
    bool fenced = false;  // its initialisation is visible to the async proxy
    Agent agent = 0;      // of the TMA loads that it counts
    Agent initialiser = 0;
    i32 init_epoch = 0;
    Clock gathering, completed;
    i64 loads_phase = -1;  // last phase with a TMA load
    Site load_at;
    std::vector<Thread*> waiters;
    std::vector<Thread*> released;  // woken by the last completion and not yet run
    std::vector<i64> last_waited;   // by thread: phase it last saw complete
};

struct NamedBarrier {
    u32 threads = 0;  // of the generation in progress
    u32 arrived = 0;
    u64 generation = 0;
    Clock gathering;
    std::vector<bool> has_arrived;  // by thread: without waiting
    std::vector<Thread*> waiters;
    Site first_at;
};

// A thread's point in its own time, which another thread has seen or not.
struct Moment {
    Agent agent = 0;
    i32 epoch = 0;
    bool seen_by(const Clock& clock) const { return clock[agent] >= epoch; }
};
// A word of global memory that blocks share through atomics: what they know of each other's accesses to it.
struct SharedWord {
    AtomicView accesses;               // last atomic of each thread, in its own count
    AtomicView turns;                  // and in the word's count, but of those whose last one was a wait: an atomic follows those with lower numbers
    std::map<Storer, Moment> moments;  // and in the thread's time
    i32 turn = 0;
    AtomicView released;  // what a block that reads the word learns: views that were fenced before an atomic on it
    StoredGroups stores;  // and bulk stores that were complete before that
    BlockClocks blocks;   // and what was fenced before that of threads' stores to buffers that are exchanged
};
// What an atomic of a block told it of other blocks' stores to buffers that are exchanged. A thread may load them when it has seen one of the fences.
struct Observation {
    Moment at;
    BlockClocks blocks;
    std::vector<Moment> fences;  // fence_device of threads that have seen the atomic

    bool tells(u32 block, const Moment& store) const;
    bool fenced_for(const Clock& clock) const;
};
// Who stored a byte of such a buffer last.
struct ByteStore {
    u32 block = 0;
    Moment at{};  // of epoch 0: nobody has
    u16 site = 0;
};

struct Block {
    Block(Machine& m, u32 block_index);
    ~Block();
    Block(const Block&) = delete;
    Block& operator=(const Block&) = delete;

    Machine& machine;
    u32 index;
    ClockLayout layout;
    u8* shared = nullptr;  // in the machine's arena
    int arena_slot = -1;
    u32 shared_bytes = 0;
    Shadow shadow;
    std::vector<Thread> threads;
    std::vector<Warp> warps;
    std::vector<Warpgroup> warpgroups;
    std::map<u32, Mbarrier> mbarriers;
    NamedBarrier named[16];
    int agents = ClockLayout::kFirstDynamic;
    std::unordered_map<Agent, std::string> agent_names;
    i64 free_registers = 0;  // the pool that setmaxnreg moves them through
    std::vector<Thread*> register_waiters;
    AtomicView view;                             // of global atomics
    std::map<u32, std::vector<Moment>> atomics;  // this block's own, by thread: a thread's fence covers those that it has seen
    std::vector<Observation> observations;
    u32 live = 0;        // threads that have not finished
    int operations = 0;  // asynchronous operations in flight

    Agent new_agent(std::string name);
};

// An asynchronous operation: `run` is its effect.
struct Operation {
    u64 due;  // earliest step, unless nothing else can happen
    Block* block;
    std::function<void()> run;
};

class Machine {
public:
    Machine(const Launch& launch, const std::function<void()>& kernel, const Options& options);
    Report run();

    // The thread that runs now.
    static Thread& self();
    static Machine& current();

    void block_thread(Thread& t, const Waiting& what);  // switches away until wake()
    void wake(Thread& t);
    void maybe_yield(u32 one_in = 8);  // now and then another warp runs in between
    void linger();                     // often, and for long: where blocks meet
    void fall_behind();                // now and then for long: a lane whose warp goes on without it
    void schedule(Block& block, std::function<void()> run);

    // Ends the run with a fault. From a fiber this does not return.
    void fault(const char* kind, std::string text);
    bool failed() const { return !report_.faults.empty(); }
    [[noreturn]] void stop_fiber();

    u16 site_index(const Site& at);
    const Site& site(u16 index) const { return sites_[index]; }

    // The buffer that holds [p, p + bytes), or null.
    const Buffer* buffer_of(const void* p, std::size_t bytes) const;

    const Launch& launch;
    const std::function<void()>& kernel;
    const Options& options;
    Random random;
    u32 elected_lane;  // the same for every elect_one of a run
    int registers;     // of a thread at launch
    bool previous_launch_waited = false;
    std::unordered_map<const void*, SharedWord> shared_words;
    std::vector<std::pair<const u32*, Thread*>> word_waiters;  // in wait_global
    // Of buffers that are handed over: who stored each 16 bytes, in which group.
    std::unordered_map<u64, std::pair<Storer, u64>> stored;
    // Of buffers that are exchanged, by 16 bytes.
    std::unordered_map<u64, std::array<ByteStore, 16>> stored_bytes;
    const bool exchanging;     // there are such buffers
    std::string early_access;  // first global access before wait_for_previous_launch

private:
    friend struct Block;
    void start_blocks();
    bool step();
    void run_warp(Warp& warp);
    Warp* choose_warp(bool& starving);
    void retire(Block& block);
    void report_deadlock();

    Report report_;
    std::vector<std::unique_ptr<Block>> resident_;
    std::vector<Operation> operations_;
    u32 next_block_ = 0;
    int max_resident_;
    u64 steps_ = 0;
    u64 max_steps_;
    Thread* running_ = nullptr;
    boost::context::fiber scheduler_;
    std::vector<Site> sites_;
    std::unordered_map<u64, u16> site_of_;
    std::vector<u8*> arenas_;
    std::vector<bool> arena_used_;
    std::unique_ptr<u8[]> arena_memory_;
};

// "block 0 warp 4 lane 0 (consumer warpgroup 1)".
std::string describe(const Thread& t);
std::string describe(const Block& block, Agent agent);
std::string describe(const Site& at);
std::string describe_shared(u32 offset);  // window address and offset

// Ends the run with a fault of the running thread; its place and position are added to the text.
[[noreturn]] void fail(const char* kind, const std::string& text, const Site& at);

// Offset in shared memory of a pointer, checked to lie inside the launch's dynamic shared memory and aligned.
u32 shared_offset(const void* p, u32 bytes, u32 alignment, const char* what, const Site& at);
// Turns a conflict into a fault of the right kind.
[[noreturn]] void fail_conflict(Block& block, const Conflict& conflict, const char* what, bool write, bool async, const Site& at);

// Joins an aligned instruction: checks that every lane's is the same, returns it. `leave` when the lane is through with it.
Collective& join(Thread& t, Op op, u64 extra, const Site& at);
void leave(Thread& t, u64 number);
void wait_for_lanes(Thread& t, u64 number, u32 lanes, const Site& at);

void check_exit(Thread& t);
void check_block_exit(Block& block);
const Buffer& global_access(const void* p, std::size_t bytes, bool write, const char* what, const Site& at);
Mbarrier& find_mbarrier(u64* bar, const Site& at);
void complete_if_done(Block& block, Mbarrier& bar);

}  // namespace hopfill::emulator
