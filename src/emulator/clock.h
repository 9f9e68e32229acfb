// Vector clocks: who has seen how much of whom (Fidge 1988; epochs as in FastTrack, Flanagan and Freund 2009).
//
// Agents of a block: its threads, and what acts by itself on shared memory. An asynchronous operation is one event of an agent whose epochs are
// what the program can wait for: TMA loads of an mbarrier's phase, bulk stores of a thread's group, matrix products of a warpgroup's group.
// A thread's second number counts its writes that a proxy fence has covered, so that whoever synchronises with it learns that too.
#pragma once

#include <vector>

#include "plan/types.h"

namespace hopfill::emulator {

using Agent = u16;

// Element-wise maximum and minimum of `count` numbers into `to`.
void join_clocks(i32* to, const i32* from, int count);
void meet_clocks(i32* to, const i32* from, int count);

struct ClockLayout {
    static constexpr int kLaunch = 0;        // 1 once the launch before this one is known to have finished
    static constexpr int kWarpgroups = 1;    // + warpgroup
    static constexpr int kFirstDynamic = 9;  // mbarriers and threads with bulk stores, as they appear
    static constexpr int kProxies = 128;
    int threads = 0;

    int size() const { return kProxies + 2 * threads; }
    static Agent thread(u32 id) { return static_cast<Agent>(kProxies + id); }
    int fenced(Agent thread_agent) const { return thread_agent + threads; }
    static bool is_thread(Agent a) { return a >= kProxies; }
};

class Clock {
public:
    explicit Clock(const ClockLayout& layout, i32 fill = 0) : at_(static_cast<std::size_t>(layout.size()), fill) {}
    Clock() = default;

    i32& operator[](int i) { return at_[static_cast<std::size_t>(i)]; }
    i32 operator[](int i) const { return at_[static_cast<std::size_t>(i)]; }
    const i32* data() const { return at_.data(); }
    bool empty() const { return at_.empty(); }
    void join(const Clock& other) { join_clocks(at_.data(), other.at_.data(), static_cast<int>(at_.size())); }
    void meet(const Clock& other) { meet_clocks(at_.data(), other.at_.data(), static_cast<int>(at_.size())); }
    void reset(i32 v) { at_.assign(at_.size(), v); }

private:
    std::vector<i32> at_;
};

}  // namespace hopfill::emulator
