// One kernel that uses everything, with a fault planted at a time: each must be reported by name under every schedule, and the sound kernel be clean.
#include <gmock/gmock.h>

#include <set>

#include "emulator/formats.h"
#include "kernels.h"

namespace hopfill::testing {
namespace {

enum Fault : int {
    sound,
    no_full_wait,
    wrong_full_phase,
    no_empty_wait,
    no_release,
    late_data_wait,
    few_bytes,
    many_bytes,
    one_arrival_more,
    no_proxy_fence,
    no_barrier_before_store,
    no_wait_for_store_read,
    no_wgmma_fence,
    no_wgmma_fence_after_softmax,
    no_wgmma_wait,
    write_in_flight,
    write_a_in_flight,
    no_init_fence,
    no_block_sync,
    exit_before_store_read,
    exit_with_load,
    exit_with_products,
    shared_out_of_bounds,
    shared_out_of_bounds_tma,
    operand_out_of_bounds,
    global_out_of_bounds,
    tensor_out_of_bounds,
    uninitialised,
    half_a_warp,
    half_a_warpgroup,
    two_places,
    too_many_registers,
    take_without_room,
    generic_race,
    byte_race,
    lane_race,
    barrier_count,
    barrier_left,
    barrier_overwritten,
    uninitialised_barrier,
    misaligned_tma,
    misaligned_column,
    store_before_tensor,
    descriptor_reserved,
    early_access,
    fault_count,
};

constexpr i32 kTiles = 4;
constexpr i32 kTileBytes = 64 * 128;

struct Params {
    TensorMap x, w, y;
    float* sums;  // one a row: generic global stores
    const float* table;
};

struct Plan {
    u8* base;
    u8* stage(u32 i) const { return base + i * kTileBytes; }
    u8* weights() const { return base + 2 * kTileBytes; }
    u8* out() const { return base + 3 * kTileBytes; }
    float* scratch() const { return reinterpret_cast<float*>(base + 4 * kTileBytes); }
    u64* bar(u32 i) const { return reinterpret_cast<u64*>(base + 4 * kTileBytes + 1024) + i; }
    u64* full(u32 i) const { return bar(i); }
    u64* empty(u32 i) const { return bar(2 + i); }
    u64* weights_full() const { return bar(4); }
};
constexpr i32 kShared = 4 * kTileBytes + 1024 + 64;

u64 descriptor(const void* p) { return u64{1} << 62 | u64{1024 >> 4} << 32 | u64{1} << 16 | sm90::shared_address(p) >> 4; }

template <Fault F>
void produce(const Params& p, const Plan& s) {
    sm90::mbarrier_arrive_expect_bytes(s.weights_full(), kTileBytes);
    sm90::tma_load(s.weights(), &p.w, s.weights_full(), {0, 0, 0, 0, 0});
    for (i32 t = 0; t < kTiles; ++t) {
        const u32 slot = t % 2, phase = t / 2 % 2;
        if (F != no_empty_wait) sm90::mbarrier_wait(s.empty(slot), phase ^ 1);
        u32 bytes = kTileBytes;
        if (F == few_bytes) bytes -= 1024;
        if (F == many_bytes) bytes += 1024;
        sm90::mbarrier_arrive_expect_bytes(s.full(slot), bytes);
        u8* to = s.stage(slot);
        if (F == shared_out_of_bounds_tma && t == 1) to = s.base + kShared - 1024 - 64;
        if (F == misaligned_tma && t == 1) to += 16;
        const i32 row = F == tensor_out_of_bounds && t == kTiles - 1 ? 64 * t + 1 : 64 * t;
        sm90::tma_load(to, &p.x, s.full(slot), {F == misaligned_column && t == 1 ? 4 : 0, row, 0, 0, 0});
    }
    if (F == exit_with_load) {
        sm90::mbarrier_wait(s.empty(0), 1);
        sm90::mbarrier_arrive_expect_bytes(s.full(0), kTileBytes);
        sm90::tma_load(s.stage(0), &p.x, s.full(0), {0, 0, 0, 0, 0});
    }
}

template <Fault F>
void consume(const Params& p, const Plan& s) {
    const u32 thread = sm90::thread_index() % 128, lane = thread % 32;
    sm90::mbarrier_wait(s.weights_full(), 0);
    float acc[32];
    u32 a[4] = {};
    for (i32 t = 0; t < kTiles; ++t) {
        const u32 slot = t % 2, phase = t / 2 % 2;
        if (F == wrong_full_phase) sm90::mbarrier_wait(s.full(slot), phase ^ 1);
        if (F != no_full_wait && F != late_data_wait && F != wrong_full_phase) sm90::mbarrier_wait(s.full(slot), phase);
        if (F != no_wgmma_fence && !(F == no_wgmma_fence_after_softmax && t != 0)) sm90::wgmma_fence();
        u64 da = descriptor(s.stage(slot)), db = descriptor(s.weights());
        if (F == operand_out_of_bounds) db += (5 * kTileBytes) >> 4;
        if (F == descriptor_reserved) da |= u64{1} << 50;
        if (F == half_a_warpgroup && thread >= 64) {
            sm90::wgmma_ss<64, Elem::bf16>(acc, da, db + 2, false);
        } else if (F == two_places && thread % 2 == 1) {
            sm90::wgmma_ss<64, Elem::bf16>(acc, da, db, false);
        } else {
            sm90::wgmma_ss<64, Elem::bf16>(acc, da, db, false);
        }
        for (u64 k = 1; k < 4; ++k) sm90::wgmma_ss<64, Elem::bf16>(acc, da + 2 * k, db + 2 * k, true);
        if (F == write_a_in_flight) sm90::wgmma_rs<64, Elem::bf16>(acc, a, db, true);
        if (F == exit_with_products && t == kTiles - 1) return;
        sm90::wgmma_commit();
        if (F == late_data_wait) sm90::mbarrier_wait(s.full(slot), phase);
        if (F == write_in_flight) acc[3] = 1.0f;
        if (F == write_a_in_flight) a[2] = 1;
        if (F != no_wgmma_wait) sm90::wgmma_wait<0>();
        if (F != no_release && lane == 0) sm90::mbarrier_arrive(s.empty(slot));
        if (F == one_arrival_more && thread == 0) sm90::mbarrier_arrive(s.full(slot));
        float sum = 0;
        for (float& v : acc) {
            v *= 0.5f;
            sum += sm90::max_float(v, 0.0f);
        }
        sum += sm90::shuffle_xor(sum, 1);
        if (F == half_a_warp) {
            if (lane < 16) sum += sm90::shuffle_xor(sum, 2);
        } else {
            sum += sm90::shuffle_xor(sum, 2);
        }
        const u32 row = 64 * t + thread / 32 * 16 + lane / 4 + (F == global_out_of_bounds ? 200 : 0);
        if (lane % 4 == 0) sm90::store_global(p.sums + row, sum + sm90::load_global(p.table + row % 256));
        // Staged in the output slot, which the store before must have read.
        if (thread == 0 && F != no_wait_for_store_read) sm90::tma_store_wait_read<0>();
        sm90::named_barrier_sync(1, F == barrier_count && thread >= 64 ? 160 : 128);
        for (i32 i = 0; i < 4; ++i) {
            u32 w[4];
            for (i32 j = 0; j < 4; ++j) w[j] = sm90::pack2<Elem::bf16>(acc[8 * i + 2 * j], acc[8 * i + 2 * j + 1]);
            const u32 r = thread / 32 * 16 + lane % 16, chunk = 2 * i + lane / 16;
            sm90::store_matrix_x4(s.out() + r * 128 + ((chunk ^ (r & 7)) << 4), w[0], w[1], w[2], w[3]);
        }
        if (F != no_proxy_fence) sm90::fence_async_shared();
        if (F != no_barrier_before_store) sm90::named_barrier_sync(1, 128);
        if (thread == 0) {
            sm90::tma_store(&p.y, s.out(), {0, F == store_before_tensor ? 64 * t - 8 : 64 * t, 0, 0, 0});
            sm90::tma_store_commit();
        }
    }
    if (F == generic_race) sm90::store_shared(s.scratch() + thread % 64, 1.0f);
    // Neighbours write bytes of one word, each its own; then all the first.
    if (F == sound || F == byte_race) {
        u8* const bytes = reinterpret_cast<u8*>(s.scratch()) + 768;
        sm90::store_shared(bytes + (F == sound ? thread : thread / 64 * 64), u8{1});
    }
    if (F == lane_race) {
        sm90::store_shared(s.scratch() + thread, 1.0f);
        sm90::load_shared(s.scratch() + (thread ^ 1));
    }
    if (F == uninitialised) sm90::load_shared(s.scratch() + thread);
    if (F == shared_out_of_bounds) sm90::store_shared(s.scratch() + 400 + thread, 1.0f);
    if (F == barrier_overwritten && thread == 0) sm90::store_shared(s.full(0), u64{0});
    if (F == barrier_left && thread < 32) sm90::named_barrier_arrive(2, 64);
    // The sound twins of the accesses above.
    sm90::named_barrier_sync(1, 128);
    if (F == sound) {
        sm90::store_shared(s.scratch() + thread, 1.0f);
        sm90::sync_warp();
        sm90::load_shared(s.scratch() + (thread ^ 1));
        sm90::named_barrier_sync(1, 128);
        sm90::load_shared(s.scratch() + (thread + 64) % 128);
    }
    if (thread == 0 && F != exit_before_store_read) sm90::tma_store_wait_read<0>();
}

template <Fault F>
void kernel(const Params& p) {
    const Plan s{sm90::shared_memory()};
    const u32 warp = sm90::warp_uniform(sm90::thread_index() / 32);
    if (F == early_access && sm90::thread_index() == 7) sm90::load_global(p.table);
    if (warp == 0 && sm90::elect_one()) {
        for (u32 i = 0; i < 2; ++i) {
            sm90::mbarrier_init(s.full(i), 1);
            sm90::mbarrier_init(s.empty(i), 4);
        }
        if (F != uninitialised_barrier) sm90::mbarrier_init(s.weights_full(), 1);
        if (F != no_init_fence) sm90::fence_mbarrier_init();
    }
    if (F == no_block_sync)
        sm90::sync_warp();
    else
        sm90::sync_block();
    sm90::wait_for_previous_launch();
    if (warp < 4) {
        if (F != take_without_room) sm90::give_registers<24>();
        if (warp == 0 && sm90::elect_one()) produce<F>(p, s);
    } else {
        sm90::take_registers<F == too_many_registers ? 240 : 232>();
        consume<F>(p, s);
    }
}

struct Problem {
    std::vector<u16> x, w, y;
    std::vector<float> sums, table;
    Params p{};
    Launch launch;

    Problem() : x(256 * 64), w(64 * 64), y(256 * 64, 0x7fff), sums(256), table(256, 1.0f) {
        for (std::size_t i = 0; i < x.size(); ++i) x[i] = emulator::to_bf16(static_cast<float>(i * 7 % 11) - 5);
        for (std::size_t i = 0; i < w.size(); ++i) w[i] = emulator::to_bf16(static_cast<float>(i * 5 % 7) - 3);
        // A box more of rows than there are: what is past them must not be touched.
        p.x = map_2d(x.data(), 64, 257, 64, 64, Swizzle::b128);
        p.w = map_2d(w.data(), 64, 64, 64, 64, Swizzle::b128);
        p.y = map_2d(y.data(), 64, 256, 64, 64, Swizzle::b128);
        p.sums = sums.data();
        p.table = table.data();
        launch = {1, 256, kShared, 128, {buffer("x", x), buffer("w", w), buffer("y", y, true), buffer("sums", sums, true), buffer("table", table)}};
    }

    void check() const {
        for (i32 m = 0; m < 256; ++m) {
            float sum = 0;
            for (i32 n = 0; n < 64; ++n) {
                float v = 0;
                for (i32 k = 0; k < 64; ++k)
                    v += emulator::from_bf16(x[static_cast<std::size_t>(m * 64 + k)]) * emulator::from_bf16(w[static_cast<std::size_t>(n * 64 + k)]);
                ASSERT_EQ(emulator::to_bf16(0.5f * v), y[static_cast<std::size_t>(m * 64 + n)]) << "row " << m << " column " << n;
                sum += v;
            }
            ASSERT_TRUE(std::isfinite(sum));
        }
    }
};

struct Planted {
    Fault fault;
    const char* name;
    std::set<std::string> kinds;
};

template <int... F>
std::vector<void (*)(const Params&)> kernels(std::integer_sequence<int, F...>) {
    return {&kernel<static_cast<Fault>(F)>...};
}

const Planted kPlanted[] = {
    {sound, "sound", {"clean"}},
    {no_full_wait, "no_full_wait", {"read-before-arrival", "uninitialised-read", "overwrite-before-release"}},
    {wrong_full_phase, "wrong_full_phase", {"read-before-arrival", "uninitialised-read", "deadlock"}},
    {late_data_wait, "late_data_wait", {"read-before-arrival", "uninitialised-read", "overwrite-before-release"}},
    {no_empty_wait, "no_empty_wait", {"overwrite-before-release", "barrier-over-arrival", "phase-lapped"}},
    {no_release, "no_release", {"deadlock"}},
    {few_bytes, "few_bytes", {"byte-count"}},
    {many_bytes, "many_bytes", {"byte-count"}},
    {one_arrival_more, "one_arrival_more", {"barrier-over-arrival", "byte-count", "phase-lapped", "read-before-arrival"}},
    {no_proxy_fence, "no_proxy_fence", {"missing-proxy-fence"}},
    {no_barrier_before_store, "no_barrier_before_store", {"race", "uninitialised-read", "overwrite-before-release"}},
    {no_wait_for_store_read, "no_wait_for_store_read", {"overwrite-before-release"}},
    {no_wgmma_fence, "no_wgmma_fence", {"missing-wgmma-fence"}},
    {no_wgmma_fence_after_softmax, "no_wgmma_fence_after_softmax", {"missing-wgmma-fence"}},
    {no_wgmma_wait, "no_wgmma_wait", {"register-in-flight"}},
    {write_in_flight, "write_in_flight", {"register-in-flight"}},
    {write_a_in_flight, "write_a_in_flight", {"register-in-flight"}},
    {no_init_fence, "no_init_fence", {"barrier-init"}},
    {no_block_sync, "no_block_sync", {"barrier-init"}},
    {exit_before_store_read, "exit_before_store_read", {"exit-in-flight"}},
    {exit_with_load, "exit_with_load", {"exit-in-flight"}},
    {exit_with_products, "exit_with_products", {"exit-in-flight"}},
    {shared_out_of_bounds, "shared_out_of_bounds", {"shared-out-of-bounds"}},
    {shared_out_of_bounds_tma, "shared_out_of_bounds_tma", {"shared-out-of-bounds"}},
    {operand_out_of_bounds, "operand_out_of_bounds", {"shared-out-of-bounds"}},
    {global_out_of_bounds, "global_out_of_bounds", {"global-out-of-bounds"}},
    {tensor_out_of_bounds, "tensor_out_of_bounds", {"global-out-of-bounds"}},
    {uninitialised, "uninitialised", {"uninitialised-read"}},
    {half_a_warp, "half_a_warp", {"divergence"}},
    {half_a_warpgroup, "half_a_warpgroup", {"divergence"}},
    {two_places, "two_places", {"divergence"}},
    {too_many_registers, "too_many_registers", {"registers"}},
    {take_without_room, "take_without_room", {"registers"}},
    {generic_race, "generic_race", {"race"}},
    {byte_race, "byte_race", {"race"}},
    {lane_race, "lane_race", {"race", "uninitialised-read"}},
    {barrier_count, "barrier_count", {"barrier-count"}},
    {barrier_left, "barrier_left", {"barrier-unfinished"}},
    {barrier_overwritten, "barrier_overwritten", {"barrier-access"}},
    {uninitialised_barrier, "uninitialised_barrier", {"barrier-init"}},
    {misaligned_tma, "misaligned_tma", {"alignment"}},
    {misaligned_column, "misaligned_column", {"coordinates"}},
    {store_before_tensor, "store_before_tensor", {"coordinates"}},
    {descriptor_reserved, "descriptor_reserved", {"descriptor"}},
    {early_access, "early_access", {"dependency"}},
};

class Faults : public ::testing::TestWithParam<Planted> {};

TEST_P(Faults, IsNamedUnderEverySchedule) {
    const auto all = kernels(std::make_integer_sequence<int, fault_count>());
    const Planted& planted = GetParam();
    for (std::uint64_t seed = 0; seed < 12; ++seed) {
        Problem problem;
        const Report r = emulator::emulate(problem.launch, [&] { all[static_cast<std::size_t>(planted.fault)](problem.p); },
                                           {.seed = seed, .max_steps = 1'000'000});
        EXPECT_THAT(planted.kinds, ::testing::Contains(kind_of(r))) << text_of(r);
        if (planted.fault == sound) {
            problem.check();
        } else if (planted.fault != few_bytes && !r.faults.empty()) {
            EXPECT_THAT(text_of(r), ::testing::HasSubstr("test_faults.cpp:")) << "no source line";
            EXPECT_THAT(text_of(r), ::testing::HasSubstr("seed")) << "no seed";
        }
    }
}

INSTANTIATE_TEST_SUITE_P(Planted, Faults, ::testing::ValuesIn(kPlanted), [](const auto& info) { return std::string(info.param.name); });

TEST(Faults, EveryFaultHasACase) { EXPECT_EQ(std::size(kPlanted), static_cast<std::size_t>(fault_count)); }

// Faults of the launch itself and of lone instructions.
TEST(Launches, LimitsOfABlock) {
    const auto nothing = [] {};
    EXPECT_EQ(kind_of(emulator::emulate({1, 128, 232448, 0, {}}, nothing)), "clean");
    EXPECT_EQ(kind_of(emulator::emulate({1, 128, 232449, 0, {}}, nothing)), "launch");
    EXPECT_EQ(kind_of(emulator::emulate({1, 1056, 0, 32, {}}, nothing)), "launch");
    EXPECT_EQ(kind_of(emulator::emulate({1, 100, 0, 32, {}}, nothing)), "launch");
    EXPECT_EQ(kind_of(emulator::emulate({1, 512, 0, 136, {}}, nothing)), "launch");
    EXPECT_EQ(kind_of(emulator::emulate({3, 1024, 0, 0, {}}, nothing)), "clean");
}

// A waiter that comes when its phase and the next have completed would wait for ever, or pass by luck.
TEST(Mbarriers, LappedWaiter) {
    const auto kernel = [](bool lap) {
        u64* bar = reinterpret_cast<u64*>(sm90::shared_memory());
        if (sm90::thread_index() == 0) {
            sm90::mbarrier_init(bar, 1);
            sm90::mbarrier_init(bar + 1, 1);
            sm90::fence_mbarrier_init();
        }
        sm90::sync_block();
        if (sm90::thread_index() == 0) {
            sm90::mbarrier_arrive(bar);
            if (lap) sm90::mbarrier_arrive(bar);
            sm90::mbarrier_arrive(bar + 1);
        } else if (sm90::thread_index() == 32) {
            sm90::mbarrier_wait(bar + 1, 0);
            sm90::mbarrier_wait(bar, 0);
        }
    };
    for (std::uint64_t seed = 0; seed < 8; ++seed) {
        EXPECT_EQ(kind_of(emulator::emulate({1, 64, 64, 0, {}}, [&] { kernel(true); }, {.seed = seed})), "phase-lapped");
        EXPECT_EQ(kind_of(emulator::emulate({1, 64, 64, 0, {}}, [&] { kernel(false); }, {.seed = seed})), "clean");
    }
}

// The last block resets a counter that a lane of each block drew from, another one reporting for it: what the fence covers must be what it has seen.
TEST(GlobalWords, ResetWhileOthersMayStillDraw) {
    const auto run = [](bool converge, std::uint64_t seed) {
        std::vector<u32> words(2);
        const auto kernel = [&] {
            const u32 lane = sm90::thread_index();
            if (lane == 5) sm90::atomic_add(&words[0], 1u);
            if (converge) sm90::sync_warp();
            if (lane != 0) return;
            sm90::fence_device();
            if (sm90::atomic_add(&words[1], 1u) + 1 < sm90::grid_size()) return;
            sm90::store_global(&words[0], 0u);
            sm90::store_global(&words[1], 0u);
        };
        const Report r = emulator::emulate({3, 32, 0, 0, {buffer("words", words, true)}}, kernel, {.seed = seed});
        if (converge) {
            EXPECT_EQ(words, std::vector<u32>(2));
        }
        return kind_of(r);
    };
    for (std::uint64_t seed = 0; seed < 12; ++seed) {
        EXPECT_EQ(run(true, seed), "clean");
        EXPECT_EQ(run(false, seed), "race");
    }
}

TEST(Deadlocks, SayWhoWaitsForWhat) {
    const auto kernel = [] {
        u64* bar = reinterpret_cast<u64*>(sm90::shared_memory());
        if (sm90::thread_index() == 0) sm90::mbarrier_init(bar, 3);
        sm90::sync_block();
        if (sm90::thread_index() == 40) sm90::mbarrier_arrive(bar);
        if (sm90::thread_index() < 32) sm90::mbarrier_wait(bar, 0);
        if (sm90::thread_index() >= 32) sm90::named_barrier_sync(3, 64);
    };
    const Report r = emulator::emulate({1, 64, 64, 0, {}}, kernel);
    ASSERT_EQ(kind_of(r), "deadlock");
    EXPECT_THAT(text_of(r), ::testing::HasSubstr("warp 0 all lanes"));
    EXPECT_THAT(text_of(r), ::testing::HasSubstr("phase 0 (parity 0) of mbarrier 0x400"));
    EXPECT_THAT(text_of(r), ::testing::HasSubstr("2 of 3 arrivals"));
    EXPECT_THAT(text_of(r), ::testing::HasSubstr("named barrier 3: 32 of 64 threads"));
}

TEST(Seeds, RepeatARunExactly) {
    const auto all = kernels(std::make_integer_sequence<int, fault_count>());
    std::set<std::uint64_t> steps;
    for (std::uint64_t seed = 0; seed < 6; ++seed) {
        Problem a, b;
        const Report first = emulator::emulate(a.launch, [&] { all[sound](a.p); }, {.seed = seed});
        const Report second = emulator::emulate(b.launch, [&] { all[sound](b.p); }, {.seed = seed});
        EXPECT_EQ(first.steps, second.steps);
        EXPECT_EQ(a.y, b.y);
        steps.insert(first.steps);
        Problem c, d;
        const Report fault = emulator::emulate(c.launch, [&] { all[no_empty_wait](c.p); }, {.seed = seed});
        const Report again = emulator::emulate(d.launch, [&] { all[no_empty_wait](d.p); }, {.seed = seed});
        EXPECT_EQ(text_of(fault), text_of(again));
    }
    EXPECT_GT(steps.size(), 3u);
}

}  // namespace
}  // namespace hopfill::testing
