#include "watchdog.h"

#include <fmt/format.h>
#include <unistd.h>

#include <condition_variable>
#include <cstdio>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

namespace hopfill::gpu {
namespace {

using Clock = std::chrono::steady_clock;

struct Watchdog {
    std::mutex mutex;
    std::condition_variable changed;
    std::optional<Clock::time_point> deadline;
    std::string step;
    std::function<void(const std::string&)> action;

    Watchdog() {
        std::thread([this] { wait(); }).detach();
    }

    void wait() {
        std::unique_lock lock(mutex);
        for (;;) {
            if (!deadline) {
                changed.wait(lock);
            } else if (changed.wait_until(lock, *deadline) == std::cv_status::timeout && deadline && Clock::now() >= *deadline) {
                fmt::print(stderr, "\nwatchdog: stuck in: {}\n", step);
                if (action) action(step);
                std::fflush(nullptr);
                _exit(124);
            }
        }
    }
};

Watchdog& watchdog() {
    static auto* w = new Watchdog;
    return *w;
}

void set(std::optional<Clock::time_point> deadline, std::string step) {
    Watchdog& w = watchdog();
    std::lock_guard lock(w.mutex);
    w.deadline = deadline;
    w.step = std::move(step);
    w.changed.notify_one();
}

}  // namespace

void watch(std::string step, std::chrono::seconds limit) { set(Clock::now() + limit, std::move(step)); }
void stop_watching() { set(std::nullopt, {}); }
void on_expiry(std::function<void(const std::string&)> action) {
    std::lock_guard lock(watchdog().mutex);
    watchdog().action = std::move(action);
}

}  // namespace hopfill::gpu
