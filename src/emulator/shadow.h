// Shadow of a block's shared memory: for each 16-byte granule, who wrote it last and who has read it since. Granules that are accessed in parts
// are kept as four words, and words as four bytes.
#pragma once

#include <cstddef>
#include <deque>
#include <vector>

#include "emulator/clock.h"

namespace hopfill::emulator {

// Who accesses, and what it has seen.
struct Actor {
    const i32* seen;  // a clock of the block
    Agent agent;
    i32 epoch;
    bool async;  // through the async proxy: needs proxy fences of generic writes
    u16 site;
};

struct Conflict {
    enum Kind : u8 { none, uninitialised, unordered_write, unordered_read, unfenced, on_barrier } kind = none;
    u32 offset = 0;   // of the granule, word or byte
    Agent agent = 0;  // of the earlier access
    u16 site = 0;
};

class Shadow {
public:
    static constexpr u32 kGranule = 16;

    Shadow(u32 bytes, const ClockLayout& layout) : layout_(layout), cells_((bytes + kGranule - 1) / kGranule) {}

    Conflict read(u32 offset, u32 bytes, const Actor& actor) { return access(offset, bytes, actor, false); }
    Conflict write(u32 offset, u32 bytes, const Actor& actor) { return access(offset, bytes, actor, true); }

    // An mbarrier lies at `offset`: ordinary accesses there are faults.
    void set_barrier(u32 offset, bool present);

private:
    struct Read {
        i32 epoch;
        Agent agent;
        u16 site;
    };
    struct Cell {
        i32 write_epoch = 0;
        Agent writer = 0;
        u16 write_site = 0;
        bool initialised = false;
        bool generic_write = false;
        u8 barriers = 0;    // one bit for each half of the granule
        u8 reads = 0;       // entries of `read` in use
        i32 split = -1;     // index of the four parts' cells, when it is kept in parts
        i32 overflow = -1;  // index of further reads
        Read read[3];
    };
    struct Parts {
        Cell part[4];
    };

    Conflict access(u32 offset, u32 bytes, const Actor& actor, bool write);
    Conflict access_part(Cell& cell, u32 base, u32 size, u32 from, u32 to, const Actor& actor, bool write);
    Conflict access_cell(Cell& cell, u32 offset, const Actor& actor, bool write);
    void add_read(Cell& cell, const Actor& actor);
    void split(Cell& cell);

    ClockLayout layout_;
    std::vector<Cell> cells_;
    std::deque<Parts> parts_;  // cells stay where they are when it grows
    std::vector<std::vector<Read>> overflow_;
};

}  // namespace hopfill::emulator
