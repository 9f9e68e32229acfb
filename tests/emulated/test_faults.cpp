// One kernel that uses everything, with a fault planted at a time: each must be reported by name under every schedule, and the sound kernel be clean.
#include <gmock/gmock.h>

#include <map>
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
    early_release,
    read_a_in_flight,
    no_operand_fence,
    part_of_warpgroup,
    part_takes_registers,
    half_a_matrix,
    misaligned_matrix,
    lane_leaves,
    uninitialised_operand,
    uninitialised_store,
    store_not_committed,
    store_to_input,
    map_not_encoded,
    two_arrivals_at_once,
    fault_count,
};

constexpr i32 kTiles = 4;
constexpr i32 kTileBytes = 64 * 128;

struct Params {
    TensorMap x, w, y, none;
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
        if (F == two_arrivals_at_once) sm90::mbarrier_arrive(s.full(slot));
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
    while (!sm90::mbarrier_try_wait(s.weights_full(), 0)) {
    }
    // Products read what threads have written, too: each puts a word of the weights back.
    u32* const word = reinterpret_cast<u32*>(s.weights()) + thread;
    sm90::store_shared(word, sm90::load_shared(word));
    if (F != no_operand_fence) sm90::fence_async_shared();
    sm90::named_barrier_sync(1, 128);
    float acc[32] = {};
    u32 a[4] = {};
    for (i32 t = 0; t < kTiles; ++t) {
        const u32 slot = t % 2, phase = t / 2 % 2;
        if (F == wrong_full_phase) sm90::mbarrier_wait(s.full(slot), phase ^ 1);
        if (F != no_full_wait && F != late_data_wait && F != wrong_full_phase) sm90::mbarrier_wait(s.full(slot), phase);
        if (F != no_wgmma_fence && !(F == no_wgmma_fence_after_softmax && t != 0)) sm90::wgmma_fence();
        u64 da = descriptor(s.stage(slot)), db = descriptor(s.weights());
        if (F == uninitialised_operand) db = descriptor(s.out());
        if (F == operand_out_of_bounds) db += (5 * kTileBytes) >> 4;
        if (F == descriptor_reserved) da |= u64{1} << 50;
        if (F == half_a_warpgroup && thread >= 64) {
            sm90::wgmma_ss<64, Elem::bf16>(acc, da, db + 2, false);
        } else if (F == two_places && thread % 2 == 1) {
            sm90::wgmma_ss<64, Elem::bf16>(acc, da, db, false);
        } else if (F != part_of_warpgroup || thread < 96) {
            sm90::wgmma_ss<64, Elem::bf16>(acc, da, db, false);
        }
        for (u64 k = 1; k < 4 && (F != part_of_warpgroup || thread < 96); ++k) sm90::wgmma_ss<64, Elem::bf16>(acc, da + 2 * k, db + 2 * k, true);
        if (F != part_of_warpgroup || thread < 96) sm90::wgmma_rs<64, Elem::bf16>(acc, a, db, true);
        if (F == exit_with_products && t == kTiles - 1) return;
        sm90::wgmma_commit();
        if (F == late_data_wait) sm90::mbarrier_wait(s.full(slot), phase);
        if (F == write_in_flight) acc[3] = 1.0f;
        if (F == write_a_in_flight) a[2] = 1;
        if (F == read_a_in_flight) sm90::float_bits(sm90::bits_float(a[1]));
        if (F == early_release && lane == 0) sm90::mbarrier_arrive(s.empty(slot));
        if (F != no_wgmma_wait) sm90::wgmma_wait<0>();
        if (F != no_release && F != early_release && lane == 0) sm90::mbarrier_arrive(s.empty(slot));
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
        if (F == lane_leaves && t == 1 && lane == 31) return;
        const u32 row = 64 * t + thread / 32 * 16 + lane / 4 + (F == global_out_of_bounds ? 200 : 0);
        if (lane % 4 == 0) sm90::store_global(p.sums + row, sum + sm90::load_global(p.table + row % 256));
        if (F == store_to_input) sm90::store_global(const_cast<float*>(p.table) + thread, 1.0f);
        // Staged in the output slot, which the store before must have read.
        if (thread == 0 && F != no_wait_for_store_read) sm90::tma_store_wait_read<0>();
        sm90::named_barrier_sync(1, F == barrier_count && thread >= 64 ? 160 : 128);
        for (i32 i = 0; i < 4; ++i) {
            u32 w[4];
            for (i32 j = 0; j < 4; ++j) w[j] = sm90::pack2<Elem::bf16>(acc[8 * i + 2 * j], acc[8 * i + 2 * j + 1]);
            const u32 r = thread / 32 * 16 + lane % 16, chunk = 2 * i + lane / 16;
            u8* const at = s.out() + r * 128 + ((chunk ^ (r & 7)) << 4) + (F == misaligned_matrix ? 8 : 0);
            if (F != uninitialised_store && (F != half_a_matrix || lane < 16)) sm90::store_matrix_x4(at, w[0], w[1], w[2], w[3]);
        }
        if (F != no_proxy_fence) sm90::fence_async_shared();
        if (F != no_barrier_before_store) sm90::named_barrier_sync(1, 128);
        if (thread == 0) {
            sm90::tma_store(&p.y, s.out(), {0, F == store_before_tensor ? 64 * t - 8 : 64 * t, 0, 0, 0});
            if (F != store_not_committed) sm90::tma_store_commit();
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
    if ((F == sound || F == barrier_left) && thread < 32) sm90::named_barrier_arrive(2, 64);
    if (F == sound && thread >= 32 && thread < 64) sm90::named_barrier_sync(2, 64);
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
        if (F == map_not_encoded && warp == 0) sm90::tma_prefetch_map(&p.none);
        if (warp == 0 && sm90::elect_one()) produce<F>(p, s);
    } else {
        if (F != part_takes_registers || warp != 7) sm90::take_registers<F == too_many_registers ? 240 : 232>();
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
    {early_release, "early_release", {"overwrite-before-release", "read-before-arrival", "phase-lapped"}},
    {read_a_in_flight, "read_a_in_flight", {"register-in-flight"}},
    {no_operand_fence, "no_operand_fence", {"missing-proxy-fence"}},
    {part_of_warpgroup, "part_of_warpgroup", {"divergence"}},
    {part_takes_registers, "part_takes_registers", {"registers"}},
    {half_a_matrix, "half_a_matrix", {"divergence"}},
    {misaligned_matrix, "misaligned_matrix", {"alignment"}},
    {lane_leaves, "lane_leaves", {"divergence"}},
    {uninitialised_operand, "uninitialised_operand", {"uninitialised-read"}},
    {uninitialised_store, "uninitialised_store", {"uninitialised-read"}},
    {store_not_committed, "store_not_committed", {"exit-in-flight", "overwrite-before-release"}},
    {store_to_input, "store_to_input", {"global-out-of-bounds"}},
    {map_not_encoded, "map_not_encoded", {"tensor-map"}},
    {two_arrivals_at_once, "two_arrivals_at_once", {"barrier-over-arrival"}},
};

// Who: a warp with its role, or a block. What: the barrier, or the address. Where: a line.
const char* const kWho = "warp [0-9]+ (lane [0-9]+|lanes [0-9a-f]+|all lanes) .(consumer warpgroup|producer, warpgroup|warpgroup) [0-9]|block [0-9]+";
const char* const kWhere = "test_faults[.]cpp:[0-9]+";
const std::map<std::string, const char*> kNames = {
    {"deadlock", "phase [0-9]+ .parity [01]. of mbarrier 0x[0-9a-f]+|named barrier [0-9]+: [0-9]+ of [0-9]+"},
    {"byte-count", "mbarrier (at )?0x[0-9a-f]+.*bytes"},
    {"phase-lapped", "phase [0-9]+ .*mbarrier at 0x[0-9a-f]+"},
    {"barrier-over-arrival", "phase [0-9]+ of the mbarrier at 0x[0-9a-f]+"},
    {"barrier-count", "named barrier 1 .*128"},
    {"barrier-unfinished", "32 of 64 threads .*named barrier 2"},
    {"barrier-init", "mbarrier at 0x[0-9a-f]+"},
    {"barrier-access", "mbarrier at 0x[0-9a-f]+"},
    {"race", "shared memory 0x[0-9a-f]+"},
    {"read-before-arrival", "shared memory 0x[0-9a-f]+"},
    {"overwrite-before-release", "shared memory 0x[0-9a-f]+"},
    {"missing-proxy-fence", "shared memory 0x[0-9a-f]+ .*fence_async_shared"},
    {"uninitialised-read", "shared memory 0x[0-9a-f]+"},
    {"missing-wgmma-fence", "wgmma_fence"},
    {"register-in-flight", "in flight|still read"},
    {"shared-out-of-bounds", "bytes? .*shared|shared address 0x"},
    {"global-out-of-bounds", "(outside every tensor: byte [0-9-]+ of (x|sums)|to table, which is read only)"},
    {"alignment", "multiple of (16|128)"},
    {"divergence", "not converged.*(lane|threads)"},
    {"registers", "registers"},
    {"exit-in-flight", "ends"},
    {"dependency", "of table before wait_for_previous_launch"},
    {"coordinates", "at (column 4|coordinate -8 in dimension 1)"},
    {"descriptor", "descriptor 0x[0-9a-f]+ of operand A"},
    {"tensor-map", "tensor map"},
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
        } else if (!r.faults.empty()) {
            ASSERT_TRUE(kNames.contains(kind_of(r))) << kind_of(r);
            EXPECT_THAT(text_of(r), ::testing::ContainsRegex(kNames.at(kind_of(r))));
            EXPECT_THAT(text_of(r), ::testing::ContainsRegex(kWho));
            EXPECT_THAT(text_of(r), ::testing::ContainsRegex(kWhere));
            EXPECT_THAT(text_of(r), ::testing::ContainsRegex("seed [0-9]+, step [0-9]+"));
            if (seed == 0) RecordProperty("report", text_of(r).substr(0, text_of(r).find('\n')));
        }
    }
}

INSTANTIATE_TEST_SUITE_P(Planted, Faults, ::testing::ValuesIn(kPlanted), [](const auto& info) { return std::string(info.param.name); });

TEST(Faults, EveryFaultHasACase) { EXPECT_EQ(std::size(kPlanted), static_cast<std::size_t>(fault_count)); }

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
