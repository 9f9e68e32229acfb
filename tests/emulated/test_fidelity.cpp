// The emulator against a GPU: outputs of the one-instruction kernels, and of the planner's kernels on small integers, as evidence/ keeps them.
// An output that no GPU has computed with this build's machine code is counted, and said; which ones may not be missing, see the tests.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <map>
#include <set>

#include "cuda/backend.h"
#include "fidelity.h"
#include "instruction_kernels.h"

namespace hopfill::testing {
namespace {

const std::string kEvidence = std::string(HOPFILL_SOURCE_DIR) + "/evidence/";

Record stored(const char* file) {
    const auto record = read_record(kEvidence + file);
    return record ? *record : Record{};
}

// Whether evidence/unverified.md lists `name`, with its reason.
bool excused(const std::string& name) {
    std::ifstream in(kEvidence + "unverified.md");
    const std::string text{std::istreambuf_iterator<char>(in), {}};
    return text.find("`" + name + "`") != std::string::npos;
}

// Whether it lists the case's first word, or the first few, as of one width of an instruction.
bool excused_by_words(const std::string& name) {
    for (std::size_t end = name.find(' '); end != std::string::npos; end = name.find(' ', end + 1))
        if (excused(name.substr(0, end))) return true;
    return excused(name);
}

struct Count {
    int agree = 0, missing = 0, stale = 0;
    std::set<std::string> seen;
};

// Whether the record has this output of this machine code; then it must be the emulator's.
bool compare(const Observation& emulated, const Record& gpu, Count& count) {
    const auto entry = gpu.cases.find(emulated.name);
    count.seen.insert(emulated.name);
    if (entry == gpu.cases.end()) {
        ++count.missing;
        return false;
    }
    if (entry->second.key != emulated.key) {
        ++count.stale;
        return false;
    }
    const std::string text = disagreement(emulated, entry->second);
    EXPECT_EQ(text, "") << emulated.name;
    count.agree += text.empty();
    return true;
}

std::string text_of(const Count& c, const Record& gpu) {
    const auto unasked = std::ranges::count_if(gpu.cases, [&](const auto& entry) { return !c.seen.contains(entry.first); });
    return fmt::format("{} outputs as on {} ({}); {} that no GPU has computed yet, {} stale: of other machine code; {} kept of cases that are gone",
                       c.agree, gpu.gpu.empty() ? "no GPU" : gpu.gpu, gpu.date, c.missing, c.stale, unasked);
}

TEST(Fidelity, InstructionsGiveWhatTheGpuGave) {
    const InstructionKernels kernels = read_instruction_kernels(HOPFILL_INSTRUCTION_KERNELS);
    const Record gpu = stored(kInstructionRecord);
    Count count;
    std::set<std::string> without;
    for (const InstructionCase& c : instruction_cases()) {
        const auto image = kernels.find(c.kernel);
        ASSERT_NE(image, kernels.end()) << c.kernel << " is not compiled: build instructions.bin";
        std::string fault;
        const auto output = emulate_case(c, &fault);
        ASSERT_TRUE(output) << output.error().text();
        SCOPED_TRACE(fault);
        EXPECT_TRUE(fault.empty() || c.name.starts_with("tma load") || c.name.starts_with("tma store")) << c.name << " is a fault: " << fault;
        if (!compare({c.name, image->second.key, *output}, gpu, count)) without.insert(c.name);
    }
    fmt::print("instructions: {}\n", text_of(count, gpu));
    for (const std::string& name : without)
        EXPECT_TRUE(excused_by_words(name)) << name << ": no GPU's output to compare with: run ./dev device-check --fidelity on a Hopper GPU, or "
                                            << "list `" << instruction_of(name) << "` in evidence/unverified.md with the reason";
}

// What is compared with a GPU may not depend on the schedule.
TEST(Fidelity, InstructionsGiveTheSameUnderEverySchedule) {
    for (const InstructionCase& c : instruction_cases()) {
        if (c.name.starts_with("wgmma") || c.name.starts_with("sums")) continue;
        const auto first = emulate_case(c);
        ASSERT_TRUE(first);
        for (std::uint64_t seed = 0; seed < 3; ++seed) EXPECT_EQ(*emulate_case(c, nullptr, seed), *first) << c.name;
    }
}

// The planner may pick only kernels with evidence for what the bench runs: tests/compile judges that. Here every output that there is must agree.
TEST(Fidelity, KernelsGiveWhatTheGpuGave) {
    std::map<std::string, std::string> keys;
    for (const KernelInfo& k : cuda::catalogue()) keys[k.name] = k.key;
    EXPECT_EQ(keys.size(), planner::kernel_table().size());
    for (const auto& [name, image] : read_instruction_kernels(HOPFILL_INSTRUCTION_KERNELS)) keys.emplace(name, image.key);
    const Record gpu = stored(kKernelRecord);
    Count count;
    std::set<std::string> without;
    for (const Case& c : integer_cases()) {
        Workload workload(c, 1);
        ASSERT_TRUE(keys.contains(workload.kernel_name())) << workload.kernel_name();
        const Outcome outcome = workload.run({.seed = 1}, emulator::run);
        ASSERT_EQ(outcome.kind, "clean") << c.name << "\n" << outcome.text;
        for (const Observation& o : observe(workload, c, keys[workload.kernel_name()]))
            if (!compare(o, gpu, count)) without.insert(workload.kernel_name());
    }
    const InstructionKernels images = read_instruction_kernels(HOPFILL_INSTRUCTION_KERNELS);
    const auto judge = [&](auto& workload, const auto& c, const std::string& key) {
        ASSERT_NE(key, "") << c.name;
        const Outcome outcome = workload.run({.seed = 1}, emulator::run_quantizer);
        ASSERT_EQ(outcome.kind, "clean") << c.name << "\n" << outcome.text;
        if (!compare(observe(workload, c, key), gpu, count)) without.insert(c.name);
    };
    for (const QuantizeCase& c : quantize_cases()) {
        QuantizeWorkload workload(c, 1);
        judge(workload, c, key_of(workload, images));
    }
    for (const WidenCase& c : widen_cases()) {
        WidenWorkload workload(c);
        judge(workload, c, key_of(c, images));
    }
    fmt::print("kernels: {}\n", text_of(count, gpu));
    for (const std::string& name : without) fmt::print("  {} has no GPU's output to compare with\n", name);
}

}  // namespace
}  // namespace hopfill::testing
