// Cases of what threads and warps share: atomics, accesses of sixteen bytes, elections, barriers, registers.
#include <fmt/format.h>

#include "case_builder.h"
#include "instructions.cuh"

namespace hopfill::testing {
namespace {

void add(std::vector<InstructionCase>& cases, const char* name, const char* kernel, int threads, int shared_bytes, const std::vector<u32>& in,
         std::size_t out_words, std::function<void(const void*)> emulated) {
    InstructionCase c;
    c.name = name;
    c.kernel = fmt::format("hopfill::instructions::{}_kernel<{}>", kernel, threads);
    c.threads = threads;
    c.shared_bytes = shared_bytes;
    c.buffers = {{"in", bytes_of(in)}, {"out", std::vector<u8>(4 * out_words), true}};
    c.params = [](const Place& at) -> Result<std::vector<u8>> {
        return bytes_of(instructions::SharedParams{static_cast<const u32*>(at.buffers[0]), static_cast<u32*>(at.buffers[1])});
    };
    c.emulated = std::move(emulated);
    cases.push_back(std::move(c));
}

const instructions::SharedParams& of(const void* p) { return *static_cast<const instructions::SharedParams*>(p); }

}  // namespace

void add_shared_cases(std::vector<InstructionCase>& cases) {
    emulator::Random random(41);
    std::vector<u32> positive(128), words(128);
    for (u32& x : positive) x = emulator::to_bits(static_cast<float>(random.below(1u << 20)) / 64);
    // No bytes that make NaNs of floats.
    for (u32& x : words) x = static_cast<u32>(random.next()) & 0x3fffffffu;
    add(cases, "atomic add, max", "atomic", 128, 0, positive, 130, [](const void* p) { instructions::atomic_kernel<128>(of(p)); });
    add(cases, "wait for a word of global memory", "wait_global", 64, 0, words, 65,
        [](const void* p) { instructions::wait_global_kernel<64>(of(p)); });
    add(cases, "vector of 16 and 8 bytes", "vector", 32, 512, words, 128, [](const void* p) { instructions::vector_kernel<32>(of(p)); });
    add(cases, "shared16 words", "shared16", 32, 512, words, 128, [](const void* p) { instructions::shared16_kernel<32>(of(p)); });
    add(cases, "elect one", "elect", 32, 0, words, 32, [](const void* p) { instructions::elect_kernel<32>(of(p)); });
    add(cases, "handover mbarriers, named barriers, setmaxnreg", "handover", 384, 2048 + 64, words, 256,
        [](const void* p) { instructions::handover_kernel<384>(of(p)); });
}

}  // namespace hopfill::testing
