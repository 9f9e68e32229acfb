#include "instruction_cases.h"

#include <string_view>

namespace hopfill::testing {

const std::vector<InstructionCase>& instruction_cases() {
    static const std::vector<InstructionCase> all = [] {
        std::vector<InstructionCase> cases;
        add_wgmma_cases(cases);
        add_sum_cases(cases);
        add_tma_cases(cases);
        add_scalar_cases(cases);
        add_shared_cases(cases);
        return cases;
    }();
    return all;
}

std::vector<u8> refusal() {
    constexpr std::string_view kText = "refused: illegal";
    return {kText.begin(), kText.end()};
}

Result<std::vector<u8>> emulate_case(const InstructionCase& c, std::string* fault, std::uint64_t seed) {
    std::vector<CaseBuffer> buffers = c.buffers;
    Place place{{}, emulator::encode};
    emulator::Launch launch{1, c.threads, c.shared_bytes, 0, {}};
    for (CaseBuffer& b : buffers) {
        place.buffers.push_back(b.bytes.data());
        launch.buffers.push_back({b.name, b.bytes.data(), b.bytes.size(), b.output});
    }
    const auto params = c.params(place);
    if (!params) return params.error();
    // Tensor maps are aligned; a vector's bytes are not.
    alignas(64) u8 argument[1024];
    if (params->size() > sizeof argument) return Error{Code::internal, "", "the argument is too long"};
    std::copy(params->begin(), params->end(), argument);
    const emulator::Report report = emulator::emulate(launch, [&] { c.emulated(argument); }, {.seed = seed});
    if (!report.faults.empty()) {
        if (fault != nullptr) *fault = report.faults[0].text;
        return refusal();
    }
    std::vector<u8> out;
    for (const CaseBuffer& b : buffers)
        if (b.output) out.insert(out.end(), b.bytes.begin(), b.bytes.end());
    return out;
}

}  // namespace hopfill::testing
