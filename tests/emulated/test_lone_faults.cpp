// Faults of a launch and of lone instructions, each beside its mended twin.
#include <gmock/gmock.h>

#include <cmath>

#include "kernels.h"
#include "sm90/vector.cuh"

namespace hopfill::testing {
namespace {

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

// Three arrivals, of which the barrier counts two, before the phase has its bytes.
TEST(Mbarriers, OverArrival) {
    const auto run = [](u32 count, std::uint64_t seed) {
        const auto kernel = [count] {
            u64* bar = reinterpret_cast<u64*>(sm90::shared_memory());
            if (sm90::thread_index() == 0) sm90::mbarrier_init(bar, count);
            sm90::sync_block();
            if (sm90::thread_index() == 0) sm90::mbarrier_arrive_expect_bytes(bar, 16);
            if (sm90::thread_index() < 2) sm90::mbarrier_arrive(bar);
        };
        return emulator::emulate({1, 64, 64, 0, {}}, kernel, {.seed = seed});
    };
    for (std::uint64_t seed = 0; seed < 12; ++seed) {
        const Report r = run(2, seed);
        ASSERT_EQ(kind_of(r), "barrier-over-arrival");
        EXPECT_THAT(text_of(r), ::testing::HasSubstr("one arrival more than the 2 of phase 0 of the mbarrier at 0x400"));
        EXPECT_EQ(kind_of(run(3, seed)), "clean");
    }
}

// A warp that arrives at the block's barrier without waiting.
TEST(NamedBarriers, ArriveAtTheBlocksOwn) {
    const auto run = [](u32 id) {
        const auto kernel = [id] {
            if (sm90::thread_index() < 32)
                sm90::named_barrier_arrive(id, 64);
            else if (id == 0)
                sm90::sync_block();
            else
                sm90::named_barrier_sync(id, 64);
        };
        return emulator::emulate({1, 64, 64, 0, {}}, kernel);
    };
    EXPECT_EQ(kind_of(run(0)), "barrier-count");
    EXPECT_EQ(kind_of(run(3)), "clean");
}

// A branch that no sum of exponentials takes.
TEST(Traps, AreTakenByNegativeSumsAlone) {
    for (const float sum : {-1.0f, 0.0f, -0.0f, 3.0f, NAN}) {
        const Report r = emulator::emulate({1, 32, 0, 0, {}}, [&] { sm90::compute_before_wait(sum); });
        EXPECT_EQ(kind_of(r), sum < 0 ? "trap" : "clean");
        if (sum < 0) {
            EXPECT_THAT(text_of(r), ::testing::HasSubstr("warp 0 lane"));
            EXPECT_THAT(text_of(r), ::testing::HasSubstr("test_lone_faults.cpp:"));
        }
    }
}

TEST(Livelocks, EndAfterManySteps) {
    std::vector<u32> word(1);
    const auto kernel = [&] {
        while (sm90::atomic_add(word.data(), 0u) == 0) {
        }
    };
    const Report r = emulator::emulate({1, 32, 0, 0, {buffer("word", word, true)}}, kernel, {.max_steps = 1000});
    EXPECT_EQ(kind_of(r), "livelock");
}

// A launch that may overlap the one before has to wait for it, not only what comes after a wait.
TEST(Launches, ProgrammaticOnesWaitForTheOneBefore) {
    std::vector<float> in(32, 1.0f), out(32);
    for (const bool waits : {false, true}) {
        const auto kernel = [&] {
            if (waits) sm90::wait_for_previous_launch();
            sm90::store_global(&out[sm90::lane_index()], sm90::load_global(&in[sm90::lane_index()]));
        };
        for (const bool programmatic : {false, true}) {
            const Report r = emulator::emulate({1, 32, 0, 0, {buffer("in", in), buffer("out", out, true)}, programmatic}, kernel);
            EXPECT_EQ(kind_of(r), programmatic && !waits ? "dependency" : "clean") << text_of(r);
        }
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

// Block 1 only waits for a word that block 0 counts and then resets: nothing says that it has seen it.
TEST(GlobalWords, ResetWhileOthersMayStillWait) {
    const auto run = [](bool reported, std::uint64_t seed) {
        std::vector<u32> words(2);
        const auto kernel = [&] {
            if (sm90::thread_index() != 0) return;
            if (sm90::block_index() == 1) {
                sm90::wait_global(&words[0], 1);
                if (!reported) return;
                sm90::fence_device();
                sm90::atomic_add(&words[1], 1u);
                return;
            }
            sm90::atomic_add(&words[0], 1u);
            sm90::wait_global(&words[reported ? 1 : 0], 1);
            sm90::store_global(&words[0], 0u);
        };
        return kind_of(emulator::emulate({2, 32, 0, 0, {buffer("words", words, true)}}, kernel, {.seed = seed, .resident = 2}));
    };
    for (std::uint64_t seed = 0; seed < 12; ++seed) {
        EXPECT_EQ(run(true, seed), "clean");
        EXPECT_THAT(run(false, seed), ::testing::AnyOf("race", "deadlock"));
    }
}

// A block stores by TMA what others load: what each side has to do for that, one thing left out.
TEST(GlobalWords, HandOverWhatTmaStores) {
    enum Missing { nothing, store_wait, fence, count, wait, async_fence };
    const auto run = [](Missing missing, std::uint64_t seed) {
        std::vector<float> data(64);
        std::vector<u32> words(1);
        const TensorMap map = map_2d(data.data(), 32, 2, 32, 2, Swizzle::none, Elem::f32);
        const auto kernel = [&] {
            u8* const shared = sm90::shared_memory();
            u64* const bar = reinterpret_cast<u64*>(shared + 256);
            const u32 lane = sm90::thread_index();
            if (sm90::block_index() == 0) {
                for (i32 i = 0; i < 2; ++i) sm90::store_shared(reinterpret_cast<float*>(shared) + 32 * i + lane, 1.0f);
                sm90::fence_async_shared();
                sm90::sync_warp();
                if (lane != 0) return;
                sm90::tma_store(&map, shared, {0, 0, 0, 0, 0});
                sm90::tma_store_commit();
                if (missing == store_wait)
                    sm90::tma_store_wait_read<0>();
                else
                    sm90::tma_store_wait<0>();
                if (missing != fence) sm90::fence_device();
                if (missing != count) sm90::atomic_add(words.data(), 1u);
                return;
            }
            if (lane != 0) return;
            sm90::mbarrier_init(bar, 1);
            sm90::fence_mbarrier_init();
            if (missing != wait) sm90::wait_global(words.data(), 1);
            if (missing != async_fence) sm90::fence_async_global();
            sm90::mbarrier_arrive_expect_bytes(bar, 256);
            sm90::tma_load(shared, &map, bar, {0, 0, 0, 0, 0});
            sm90::mbarrier_wait(bar, 0);
            for (i32 i = 0; i < 64; ++i) EXPECT_EQ(sm90::load_shared(reinterpret_cast<const float*>(shared) + i), 1.0f);
        };
        emulator::Buffer handed = buffer("data", data, true);
        handed.handed_over = true;
        return emulator::emulate({3, 32, 512, 0, {handed, buffer("words", words, true)}}, kernel, {.seed = seed});
    };
    for (std::uint64_t seed = 0; seed < 12; ++seed) {
        EXPECT_EQ(kind_of(run(nothing, seed)), "clean");
        EXPECT_EQ(kind_of(run(store_wait, seed)), "race");
        EXPECT_EQ(kind_of(run(fence, seed)), "race");
        EXPECT_EQ(kind_of(run(async_fence, seed)), "missing-proxy-fence");
        EXPECT_THAT(kind_of(run(wait, seed)), ::testing::AnyOf("race", "uninitialised-read"));
        const Report stuck = run(count, seed);
        EXPECT_EQ(kind_of(stuck), "deadlock");
        EXPECT_THAT(text_of(stuck), ::testing::HasSubstr("waits for a word of global memory to reach 1"));
    }
}

// Warps of several blocks store partial results, and the last one to have done so adds them up: what that takes, one thing left out. The fences are
// lane 0's, between which and the other lanes' accesses lie sync_warp, or every lane's.
enum class Missing { nothing, warp_before, fence_before, last, fence_after, warp_after };

Report exchange(Missing missing, bool every_lane, std::uint64_t seed) {
    constexpr u32 kBlocks = 3;
    std::vector<u32> partial(kBlocks * 128), words(1);
    u32 finished = 0;
    const auto kernel = [&] {
        const u32 lane = sm90::thread_index(), block = sm90::block_index();
        sm90::store_global16(&partial[(block * 32 + lane) * 4], {lane, block, 1, lane + block});
        if (missing != Missing::warp_before) sm90::sync_warp();
        u32 before = 0;
        if (missing != Missing::fence_before && (every_lane || lane == 0)) sm90::fence_device();
        if (lane == 0) before = sm90::atomic_add(words.data(), 1u);
        const auto fence = [&] {
            if (missing != Missing::fence_after && (every_lane || lane == 0)) sm90::fence_device();
        };
        // A shuffle orders nothing.
        before = sm90::warp_uniform(before);
        if (before + 1 < sm90::grid_size() && missing != Missing::last) return;
        if (!every_lane) fence();
        if (missing != Missing::warp_after) sm90::sync_warp();
        if (every_lane) fence();
        u32 sum[4] = {};
        for (u32 of = 0; of < kBlocks; ++of) {
            u32 part[4];
            sm90::load_global16(&partial[(of * 32 + (lane + 1) % 32) * 4], part);
            for (u32 i = 0; i < 4; ++i) sum[i] += part[i];
        }
        const u32 next = (lane + 1) % 32;
        EXPECT_THAT(sum, ::testing::ElementsAre(kBlocks * next, kBlocks * (kBlocks - 1) / 2, kBlocks, sum[0] + sum[1]));
        ++finished;
    };
    Buffer exchanged = buffer("partial", partial, true);
    exchanged.exchanged = true;
    const Report r = emulator::emulate({kBlocks, 32, 0, 0, {exchanged, buffer("words", words, true)}}, kernel, {.seed = seed});
    if (missing == Missing::nothing) {
        EXPECT_EQ(finished, 32u);
    }
    return r;
}

TEST(Exchanges, OfPartialResults) {
    for (std::uint64_t seed = 0; seed < 32; ++seed) {
        for (const bool every_lane : {false, true}) {
            const Report right = exchange(Missing::nothing, every_lane, seed);
            EXPECT_EQ(kind_of(right), "clean") << text_of(right);
            for (const Missing missing : {Missing::warp_before, Missing::fence_before, Missing::fence_after, Missing::warp_after})
                EXPECT_EQ(kind_of(exchange(missing, every_lane, seed)), "race") << static_cast<int>(missing) << every_lane;
            EXPECT_THAT(kind_of(exchange(Missing::last, every_lane, seed)), ::testing::AnyOf("race", "uninitialised-read"));
        }
        EXPECT_THAT(text_of(exchange(Missing::fence_before, false, seed)), ::testing::HasSubstr("with no fence_device and atomic between"));
        EXPECT_THAT(text_of(exchange(Missing::fence_after, false, seed)),
                    ::testing::HasSubstr("with an atomic between, but no fence_device after it that this thread has seen"));
    }
}

// Three blocks of two warps, of which thread 0 of each stores a word after the other's, by way of a fence, an atomic and a wait for it.
TEST(Exchanges, AreHandedOnFromBlockToBlock) {
    const auto run = [](bool late, bool fence, std::uint64_t seed) {
        std::vector<u32> data(4), words(3);
        const auto kernel = [&] {
            const u32 block = sm90::block_index();
            if (sm90::thread_index() == 0) {
                if (block > 0) sm90::wait_global(&words[block - 1], 1);
                if (!late || block > 0) sm90::store_global(&data[block], block > 0 ? sm90::load_global(&data[0]) + block : 1u);
                if (fence || block != 1) sm90::fence_device();
                // The fence before does not cover this.
                if (late && block == 0) sm90::store_global(&data[0], 1u);
                sm90::atomic_add(&words[block], 1u);
            }
            sm90::sync_block();
            if (block < 2 || sm90::thread_index() != 63) return;
            for (u32 i = 0; i < 3; ++i) EXPECT_EQ(sm90::load_global(&data[i]), i + 1);
        };
        Buffer exchanged = buffer("data", data, true);
        exchanged.exchanged = true;
        return kind_of(emulator::emulate({3, 64, 0, 0, {exchanged, buffer("words", words, true)}}, kernel, {.seed = seed}));
    };
    for (std::uint64_t seed = 0; seed < 12; ++seed) {
        EXPECT_EQ(run(false, true, seed), "clean");
        EXPECT_EQ(run(false, false, seed), "race");
        EXPECT_EQ(run(true, true, seed), "race");
    }
}

// Threads of one block, each of which stores a byte of the same 16: a barrier is enough for others to load or overwrite them, and needed.
TEST(Exchanges, WithinABlock) {
    enum Then { load, overwrite, load_more };
    const auto run = [](Then then, bool barrier, std::uint64_t seed) {
        std::vector<u8> data(128);
        const auto kernel = [&] {
            const u32 thread = sm90::thread_index(), other = 63 - thread;
            sm90::store_global(&data[thread], static_cast<u8>(thread));
            EXPECT_EQ(sm90::load_global(&data[thread]), thread);
            if (barrier) sm90::sync_block();
            if (then == overwrite)
                sm90::store_global(&data[other], u8{1});
            else if (then == load)
                EXPECT_EQ(sm90::load_global(&data[other]), other);
            else
                sm90::load_global(&data[thread + 1]);
        };
        Buffer exchanged = buffer("data", data, true);
        exchanged.exchanged = true;
        return emulator::emulate({1, 64, 0, 0, {exchanged}}, kernel, {.seed = seed});
    };
    for (std::uint64_t seed = 0; seed < 12; ++seed) {
        for (const Then then : {load, overwrite}) {
            EXPECT_EQ(kind_of(run(then, true, seed)), "clean");
            // Who loads first may find nothing there.
            EXPECT_THAT(kind_of(run(then, false, seed)), ::testing::AnyOf("race", "uninitialised-read"));
        }
        const Report r = run(load_more, true, seed);
        EXPECT_EQ(kind_of(r), "uninitialised-read");
        EXPECT_THAT(text_of(r), ::testing::HasSubstr("a load of global memory that nothing has been stored to in this launch"));
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

}  // namespace
}  // namespace hopfill::testing
