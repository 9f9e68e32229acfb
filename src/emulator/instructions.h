// What the emulated wrappers of sm90/ call. Each function acts for the thread that is running, and may switch to another.
#pragma once

#include <cstdint>
#include <source_location>

#include "plan/kernel_config.h"

namespace hopfill::emulator {

using Site = std::source_location;

// Coordinates.
u32 thread_index();
u32 block_index();
u32 grid_size();

// Shared memory.
u8* shared_memory();
u32 shared_address(const void* p, Site at);
void shared_read(const void* p, u32 bytes, Site at);
void shared_write(const void* p, u32 bytes, Site at);

// Global memory.
void global_read(const void* p, u32 bytes, Site at);
void global_write(const void* p, u32 bytes, Site at);
u32 global_add(u32* p, u32 v, Site at);
u32 global_max(u32* p, u32 v, Site at);
void wait_global(const u32* p, u32 least, Site at);
void fence_device();
void fence_async_global();

// Warp collectives.
enum class Shuffle : u8 { from, exclusive_or, up };
u64 shuffle(Shuffle kind, u64 value, u32 operand, Site at);
u32 ballot(bool p, Site at);
void sync_warp(Site at);
bool elect_one(Site at);
void store_matrix(void* row, u32 m0, u32 m1, u32 m2, u32 m3, Site at);
void load_matrix_transposed(const void* row, u32 (&m)[4], Site at);

// Block barriers.
void named_barrier(u32 id, u32 threads, bool wait, Site at);
void sync_block(Site at);
void set_registers(u32 count, bool take, Site at);
void wait_for_previous_launch(Site at);
[[noreturn]] void trap(Site at);

// mbarriers.
void mbarrier_init(u64* bar, u32 arrivals, Site at);
void fence_mbarrier_init(Site at);
void mbarrier_arrive(u64* bar, u32 bytes, Site at);
bool mbarrier_try_wait(u64* bar, u32 parity, Site at);
bool mbarrier_test(u64* bar, u32 parity, Site at);
void mbarrier_wait(u64* bar, u32 parity, Site at);
void fence_async_shared(Site at);

// TMA.
void tma_prefetch_map(const TensorMap* map, Site at);
void tma_load(void* to, const TensorMap* map, u64* bar, const i32 (&c)[5], Site at);
void tma_store(const TensorMap* map, const void* from, const i32 (&c)[5], Site at);
void tma_store_commit(Site at);
void tma_store_wait(u32 pending, bool read_only, Site at);

// wgmma. `a_registers` is null when A is in shared memory.
struct WgmmaShape {
    i32 n;
    Elem elem;
    bool b_mn_major;
    bool accumulate;
    i32 scale_a = 1, scale_b = 1;  // or -1
    bool operator==(const WgmmaShape&) const = default;
};
void wgmma_fence(Site at);
void wgmma_commit(Site at);
void wgmma_wait(u32 pending, Site at);
void wgmma(const WgmmaShape& shape, float* d, const u32* a_registers, u64 a, u64 b, Site at);

// What accumulators hold while a wgmma writes them: a quiet NaN whose payload arithmetic carries along, so that a value made from one is known.
constexpr u32 kPoison = 0x7fe0beefu;
inline bool is_poison(float v) { return (__builtin_bit_cast(u32, v) & 0x7fffffffu) == kPoison; }
[[noreturn]] void poison_used(Site at);
inline float checked(float v, Site at) {
    if (is_poison(v)) [[unlikely]]
        poison_used(at);
    return v;
}

}  // namespace hopfill::emulator
