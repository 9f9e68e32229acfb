#include "watchdog.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <thread>
#include <utility>

namespace hopfill::gpu {
namespace {

using Clock = std::chrono::steady_clock;

struct Step {
    Clock::time_point deadline;
    std::string name;
};

struct Watchdog {
    std::mutex mutex;
    std::map<std::thread::id, Step> steps;  // one a thread
    std::function<void(const std::string&)> action;

    Watchdog() {
        std::thread([this] {
            for (;; std::this_thread::sleep_for(std::chrono::milliseconds(200))) look();
        }).detach();
    }

    void look() {
        std::lock_guard lock(mutex);
        for (const auto& [thread, step] : steps) {
            if (Clock::now() < step.deadline) continue;
            fmt::print(stderr, "\nwatchdog: stuck in: {}\n", step.name);
            if (action) action(step.name);
            std::fflush(nullptr);
            _exit(124);
        }
    }
};

Watchdog& watchdog() {
    static auto* w = new Watchdog;
    return *w;
}

}  // namespace

void watch(std::string step, std::chrono::seconds limit) {
    static const char* patience = std::getenv("HOPFILL_PATIENCE");
    if (patience != nullptr) limit *= std::max(1, std::atoi(patience));
    std::lock_guard lock(watchdog().mutex);
    watchdog().steps[std::this_thread::get_id()] = {Clock::now() + limit, std::move(step)};
}
void stop_watching() {
    std::lock_guard lock(watchdog().mutex);
    watchdog().steps.erase(std::this_thread::get_id());
}
void on_expiry(std::function<void(const std::string&)> action) {
    std::lock_guard lock(watchdog().mutex);
    watchdog().action = std::move(action);
}

}  // namespace hopfill::gpu
