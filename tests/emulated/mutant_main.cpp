// Runs kernels of cheap configs under a few schedules: prints the first fault's kind, "wrong" when the oracle disagrees, or "clean".
// Compiled by mutants.py, whose include path puts the mutated headers first, and for the debugger (HACKING.md).
#include <cstdio>
#include <cstdlib>
#include <utility>

#include "emulator/instances.h"
#include "plan/kernel_table.h"
#include "prefill/kernel.cuh"
#include "prefill_folded/kernel.cuh"
#include "prefill_fp8/kernel.cuh"
#include "prefill_mixed/kernel.cuh"
#include "prefill_short/kernel.cuh"
#include "prefill_widened/kernel.cuh"
#include "quantize/kernel.cuh"
#include "quantize_workload.h"

namespace hopfill {
namespace {

constexpr KernelConfig at(int row) { return row < kKernelTable.size ? kKernelTable.row[row] : kFirstUseTable.row[row - kKernelTable.size]; }

// What a config's kernel is: the first of the tables that is so.
struct Wanted {
    Family family;
    Mask mask;
    bool packed;
    i32 head_dim = 64, scale_block = 0, consumers = 2;
    bool v_transposed = false;
    Elem out = Elem::bf16;
    bool ahead = false;
    bool v_turned = false;
    bool splits = false;
};
constexpr Wanted kWanted[] = {
    {Family::prefill, Mask::causal, true},
    {Family::prefill, Mask::full, false},
    {Family::prefill_short, Mask::full, true},
    {Family::prefill_short, Mask::full, false},
    {Family::prefill_fp8, Mask::causal, true},
    {Family::prefill_fp8, Mask::causal, false, 256},
    {Family::prefill_fp8, Mask::causal, true, 64, 64},
    {Family::prefill_fp8, Mask::causal, false, 64, 0, 3},
    {Family::prefill_fp8, Mask::causal, true, 64, 0, 2, true},
    {Family::prefill_fp8, Mask::full, false, 64, 64, 2, true, Elem::e4m3},
    {Family::prefill_folded, Mask::causal, true},
    {Family::prefill_folded, Mask::causal, false},
    {Family::prefill_mixed, Mask::causal, true},
    {Family::prefill_mixed, Mask::full, false},
    {Family::prefill_fp8_folded, Mask::causal, true},
    {Family::prefill_fp8, Mask::full, true, 128},
    {Family::prefill_widened, Mask::causal, true},
    {Family::prefill_widened, Mask::full, false, 192},
    {Family::prefill_folded, Mask::causal, true, 128, 0, 2, false, Elem::bf16, true},
    {Family::prefill, Mask::full, false, 256},
    {Family::prefill_fp8, Mask::full, false, 64, 0, 2, true},
    {Family::prefill, Mask::full, true},
    {Family::prefill, Mask::full, false, 128},
    {Family::prefill_fp8, Mask::causal, true, 128},
    {Family::prefill_fp8, Mask::causal, false, 128, 0, 3, false, Elem::bf16, false, true},
    {Family::prefill_fp8, Mask::full, false, 256, 0, 2, false, Elem::bf16, false, true},
    {Family::prefill, Mask::full, false, 128, 0, 2, false, Elem::bf16, false, false, true},
    {Family::prefill_fp8, Mask::full, false, 128, 0, 3, false, Elem::bf16, false, true, true},
};
constexpr int kPlanned = sizeof(kWanted) / sizeof(kWanted[0]);
// And the quantiser of bf16 and of f16.
constexpr int kConfigs = kPlanned + 2;

constexpr int find(const Wanted& w) {
    for (int i = 0; i < kKernelTable.size + kFirstUseTable.size; ++i) {
        const KernelConfig c = at(i);
        if (c.family == w.family && c.mask == w.mask && c.packed == w.packed && c.out == w.out && c.head_dim == w.head_dim &&
            c.scale_block == w.scale_block && c.consumers == w.consumers && c.v_transposed == w.v_transposed && c.ahead == w.ahead &&
            c.v_turned == w.v_turned && c.splits == w.splits)
            return i;
    }
    return -1;
}

template <int Row>
void kernel(const LaunchParams& p) {
    if constexpr (at(Row).family == Family::prefill)
        prefill_kernel<at(Row)>(p);
    else if constexpr (at(Row).family == Family::prefill_folded)
        prefill_folded_kernel<at(Row)>(p);
    else if constexpr (is_fp8(at(Row).family))
        prefill_fp8_kernel<at(Row)>(p);
    else if constexpr (at(Row).family == Family::prefill_mixed)
        prefill_mixed_kernel<at(Row)>(p);
    else if constexpr (at(Row).family == Family::prefill_widened)
        prefill_widened_kernel<at(Row)>(p);
    else
        prefill_short_kernel<at(Row)>(p);
}

[[noreturn]] void report(const testing::Outcome& outcome) {
    std::printf("%s\n%s\n", outcome.kind.c_str(), outcome.text.c_str());
    std::exit(0);
}

emulator::Options options_of(int seed) {
    emulator::Options options;
    options.seed = static_cast<u64>(seed);
    options.exact_sums = false;
    options.max_steps = 3'000'000;
    return options;
}

// What is launched before kernels that read copies.
template <Elem E>
void copying([[maybe_unused]] const planner::QuantizeLaunch& launch) {
    if constexpr (E != Elem::e4m3) quantize_kernel<widening_to(E)>(launch.widen);
}

template <int Row>
void check(int first, int count) {
    static_assert(Row >= 0, "the tables have no such kernel");
    std::vector<testing::Case> cases{testing::family_cases()[Row], testing::short_jobs_case(Row)};
    if (repeats_jobs(at(Row))) {
        cases.push_back(testing::jumping_case(Row));
        cases.push_back(testing::jumping_case(Row, true));
        if (at(Row).family == Family::prefill) cases.push_back(testing::flushing_case(Row));
    }
    for (const testing::Case& c : cases) {
        testing::Workload work(c, 1);
        for (int seed = first; seed < first + count; ++seed) {
            const testing::Outcome outcome = work.run(options_of(seed), [](const planner::LaunchSpec& spec, const emulator::Options& o) {
                return emulator::run_kernel(spec, kernel<Row>, o, copying<at(Row).elem>);
            });
            if (outcome.kind != "clean") report(outcome);
        }
    }
}

template <QuantizeConfig C, Elem E>
emulator::QuantizeFunction quantizer_if() {
    if constexpr (C.elem == E)
        return [](const planner::QuantizeLaunch& launch) { quantize_kernel<C>(launch.params); };
    else
        return nullptr;
}

template <Elem E, std::size_t... I>
emulator::QuantizeFunction quantizer(const QuantizeConfig& c, std::index_sequence<I...>) {
    emulator::QuantizeFunction found = nullptr;
    ((kQuantizeKernels.config[I] == c ? void(found = quantizer_if<kQuantizeKernels.config[I], E>()) : void()), ...);
    return found;
}

// A quantiser's launches under these schedules. `kernel` finds the one of a launch's config.
template <class Work, class Find>
void check_launches(Work&& work, int first, int count, Find kernel) {
    for (int seed = first; seed < first + count; ++seed) {
        const testing::Outcome outcome = work.run(options_of(seed), [&](const planner::QuantizeLaunch& launch, const emulator::Options& o) {
            return emulator::run_kernel(launch, kernel(launch.config), o);
        });
        if (outcome.kind != "clean") report(outcome);
    }
}

template <Elem E>
void check_quantizers(int first, int count) {
    const auto kernel = [](const QuantizeConfig& c) { return quantizer<E>(c, std::make_index_sequence<QuantizeKernels::size>()); };
    for (const testing::QuantizeCase& c : testing::quantize_cases())
        if (c.f16 == (E == Elem::f16)) check_launches(testing::QuantizeWorkload(c, 1), first, count, kernel);
}

template <Elem E>
void check_widening(int first, int count) {
    for (const testing::WidenCase& c : testing::widen_cases())
        if (c.f16 == (E == Elem::f16)) check_launches(testing::WidenWorkload(c), first, count, [](const QuantizeConfig&) { return copying<E>; });
}

template <int Config>
void check_config(int first, int count) {
    if constexpr (Config < kPlanned) {
        check<find(kWanted[Config])>(first, count);
    } else {
        constexpr Elem kElem = Config == kPlanned ? Elem::bf16 : Elem::f16;
        check_quantizers<kElem>(first, count);
        check_widening<kElem>(first, count);
    }
}

template <int... Config>
void check_any(int config, int first, int count, std::integer_sequence<int, Config...>) {
    ((config == Config ? check_config<Config>(first, count) : void()), ...);
}

}  // namespace
}  // namespace hopfill

// CONFIG FIRST COUNT: which of kWanted, then the quantiser; seeds. mutants.py compiles one config alone, without that argument.
int main(int argc, char** argv) {
#ifdef HOPFILL_CONFIG
    if (argc != 3) return 2;
    hopfill::check_config<HOPFILL_CONFIG>(std::atoi(argv[1]), std::atoi(argv[2]));
#else
    if (argc != 4 || std::atoi(argv[1]) >= hopfill::kConfigs) return 2;
    hopfill::check_any(std::atoi(argv[1]), std::atoi(argv[2]), std::atoi(argv[3]), std::make_integer_sequence<int, hopfill::kConfigs>());
#endif
    std::printf("clean\n");
}
