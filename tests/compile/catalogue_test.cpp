// The catalogue as it was compiled with this build: whole, clean, and of which kernels a GPU run is recorded.
#include <fmt/format.h>
#include <gmock/gmock.h>

#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <set>

#include "cuda/backend.h"
#include "cuda/catalogue.h"
#include "cuda/elf.h"
#include "cuda/kernel_image.h"
#include "hopfill/attention.h"

namespace hopfill::cuda {
namespace {

TEST(Catalogue, HoldsThePlannersTable) {
    const auto kernels = catalogue();
    ASSERT_EQ(kernels.size(), planner::kernel_table().size());
    std::set<std::string> names;
    for (std::size_t i = 0; i < kernels.size(); ++i) {
        EXPECT_EQ(kernels[i].name, planner::kernel_name(planner::kernel_table()[i]));
        EXPECT_EQ(kernels[i].shared_bytes, planner::shared_bytes(planner::kernel_table()[i]));
        EXPECT_TRUE(names.insert(kernels[i].name).second) << kernels[i].name << " is the name of two kernels";
    }
}

TEST(Catalogue, HasNoSpillNoStackFrameNoWarning) {
    for (const CatalogueEntry& entry : read_catalogue(embedded_catalogue())) {
        const auto image = unpack(entry.packed);
        ASSERT_TRUE(image) << entry.info.name;
        EXPECT_THAT(image->faults, testing::IsEmpty()) << image->name;
        EXPECT_EQ(image->spill_bytes, 0) << image->name;
        EXPECT_EQ(image->stack_bytes, 0) << image->name;
        // 65,536 registers an SM: what a block asks for at launch must fit.
        EXPECT_GT(image->registers, 0) << image->name;
        const auto key = kernel_key(image->cubin);
        ASSERT_TRUE(key) << image->name;
        EXPECT_EQ(*key, entry.info.key) << image->name;
    }
}

// Kernels that evidence/unverified.md lists, each with its reason, as `name`.
std::string unverified() {
    std::ifstream in(std::string(HOPFILL_SOURCE_DIR) + "/evidence/unverified.md");
    return {std::istreambuf_iterator<char>(in), {}};
}

std::optional<DType> dtype_of(const std::string& name) {
    for (DType t : {DType::f32, DType::f16, DType::bf16, DType::e4m3})
        if (name_of(t) == name) return t;
    return std::nullopt;
}

std::optional<AttentionProblem> problem_of(const nlohmann::json& c) {
    const auto dtype = dtype_of(c.value("dtype", "")), out_dtype = dtype_of(c.value("out_dtype", ""));
    const std::int64_t head_dim = c.value("head_dim_qk", 0);
    if (!dtype || !out_dtype || head_dim != c.value("head_dim_vo", 0)) return std::nullopt;
    AttentionProblem p;
    p.dtype = p.kv_dtype = *dtype;
    p.out_dtype = *out_dtype;
    p.packed = c.value("layout", "dense") != "dense";
    p.causal = c.value("causal", false);
    p.heads = c.value("heads", 0);
    p.kv_heads = c.value("kv_heads", 0);
    p.batch = c.value("batch", 1);
    p.head_dim = head_dim;
    p.tokens_q = c.value("tokens_q", 0);
    p.tokens_kv = c.value("tokens_kv", 0);
    p.max_seqlen_q = p.packed ? p.tokens_q : p.tokens_q / p.batch;
    p.max_seqlen_kv = p.packed ? p.tokens_kv : p.tokens_kv / p.batch;
    p.scale = 0.1;
    const auto strides = [&](std::int64_t seq, std::int64_t heads) {
        return Strides{p.packed ? 0 : seq * heads * head_dim, heads * head_dim, head_dim};
    };
    p.q = p.o = strides(p.max_seqlen_q, p.heads);
    p.k = p.v = strides(p.max_seqlen_kv, p.kv_heads);
    return p;
}

// No case of the bench may be given to a kernel of `without`, unless evidence/unverified.md says why.
void expect_unused(const std::set<std::string>& without, const std::string& what, const std::string& remedy) {
    const std::string excused = unverified();
    std::ifstream in(std::string(HOPFILL_SOURCE_DIR) + "/bench/grids.json");
    ASSERT_TRUE(in) << "bench/grids.json";
    const auto grids = nlohmann::json::parse(in, nullptr, false);
    ASSERT_TRUE(grids.is_object()) << "bench/grids.json";
    int cases = 0;
    for (const auto& c : grids.at("cases")) {
        const auto problem = problem_of(c);
        if (!problem) continue;  // of a feature that is not here yet
        const auto chosen = plan(*problem, DeviceInfo{}, Backend::sm90);
        if (!chosen) continue;
        ++cases;
        EXPECT_TRUE(!without.contains(chosen->kernel) || excused.find("`" + chosen->kernel + "`") != std::string::npos)
            << "the planner picks " << chosen->kernel << ", of which no " << what << " is recorded, for " << c.value("grid", "") << " "
            << c.value("case", "") << ": run ./dev device-check " << remedy
            << " on a Hopper GPU, or list it in evidence/unverified.md with the reason";
    }
    EXPECT_GT(cases, 0);
}

TEST(Evidence, CoversWhatTheBenchRuns) {
    const auto kernels = catalogue();
    std::set<std::string> without;
    for (const KernelInfo& k : kernels)
        if (k.evidence.empty()) without.insert(k.name);
    fmt::print("{} of {} kernels have no recorded GPU run\n", without.size(), kernels.size());
    expect_unused(without, "GPU run", "--grid");
}

// Outputs for small integers, which tests/emulated compares with the emulator's.
TEST(Evidence, HasIntegersOfWhatTheBenchRuns) {
    std::ifstream in(std::string(HOPFILL_SOURCE_DIR) + "/evidence/integers.json");
    const auto record = nlohmann::json::parse(in, nullptr, false);
    ASSERT_TRUE(record.is_object()) << "evidence/integers.json";
    std::set<std::string> keys, without;
    for (const auto& c : record.at("cases")) keys.insert(c.value("key", ""));
    const auto kernels = catalogue();
    for (const KernelInfo& k : kernels)
        if (!keys.contains(k.key)) without.insert(k.name);
    fmt::print("{} of {} kernels have no recorded GPU output for small integers\n", without.size(), kernels.size());
    expect_unused(without, "output for small integers", "--fidelity");
}

}  // namespace
}  // namespace hopfill::cuda
