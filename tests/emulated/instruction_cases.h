// One-instruction kernels with their inputs: run by the emulator, and by a GPU whose outputs evidence/instructions.json keeps.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "emulator/emulate.h"
#include "plan/tensor_map.h"

namespace hopfill::testing {

// Where a case's buffers lie, on the host or on a GPU.
struct Place {
    std::vector<void*> buffers;
    std::function<Result<TensorMap>(const TensorMapSpec&)> encode;
};

struct CaseBuffer {
    std::string name;
    std::vector<u8> bytes;  // before the launch
    bool output = false;
};

// How the emulator's outputs are compared with a GPU's.
struct Judge {
    bool exact = true;                  // the same bits
    double absolute = 0, relative = 0;  // else floats this near to each other, infinities and NaNs in the same places
};

struct InstructionCase {
    std::string name;    // unique; its first word is the instruction
    std::string kernel;  // as NVRTC's name expressions take it
    int threads = 128;
    int shared_bytes = 0;
    std::vector<CaseBuffer> buffers;
    Judge judge;
    std::function<Result<std::vector<u8>>(const Place&)> params;  // the kernel's argument
    std::function<void(const void* params)> emulated;             // what one thread does
};

const std::vector<InstructionCase>& instruction_cases();

// The instruction that a case is of.
inline std::string instruction_of(const std::string& name) { return name.substr(0, name.find(' ')); }

// Outputs one after the other, as the emulator computes them, or refusal(); a map that cannot be encoded is an error. `fault` gets a fault's text.
Result<std::vector<u8>> emulate_case(const InstructionCase& c, std::string* fault = nullptr, std::uint64_t seed = 5);

// What stands for the output of a case that is a fault: on a GPU, an error of the launch.
std::vector<u8> refusal();

// Parts of the table; each appends its cases.
void add_wgmma_cases(std::vector<InstructionCase>& cases);
void add_sum_cases(std::vector<InstructionCase>& cases);
void add_tma_cases(std::vector<InstructionCase>& cases);
void add_scalar_cases(std::vector<InstructionCase>& cases);
void add_shared_cases(std::vector<InstructionCase>& cases);

}  // namespace hopfill::testing
