// What a GPU computed, kept in evidence/, beside what the emulator computes: the same bits, or near enough where the hardware approximates.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "instruction_cases.h"
#include "instruction_kernels.h"
#include "quantize_workload.h"
#include "workload.h"

namespace hopfill::testing {

// An output of a kernel, on either.
struct Observation {
    std::string name;  // of the case
    std::string key;   // of the kernel
    std::vector<u8> output;
    bool operator==(const Observation&) const = default;
};

// The outputs of workloads that were run. Attention: o, to the bit, and some rows of the LSE, whose logarithm is approximate.
std::vector<Observation> observe(const Workload& workload, const Case& c, const std::string& key);

Observation observe(const QuantizeWorkload& workload, const QuantizeCase& c, const std::string& key);
Observation observe(const WidenWorkload& workload, const WidenCase& c, const std::string& key);
// One key of all kernels that a quantiser's launches name, whose own are in `kernels`; empty when one is missing.
std::string key_of(QuantizeWorkload& workload, const InstructionKernels& kernels);
std::string key_of(const WidenCase& c, const InstructionKernels& kernels);

Judge judge_of(const std::string& name);

// A GPU run, as it is kept: exact outputs by SHA-256 and a few words, others whole.
struct Record {
    struct Entry {
        std::string key, sha256;
        std::vector<u8> values;  // exact: four words spread over the output; else all
    };
    std::string gpu, driver, date;
    std::map<std::string, Entry> cases;
};

Record::Entry entry_of(const Observation& o);
// Errors: invalid_argument, naming the file.
Result<Record> read_record(const std::string& path);
bool write_record(const std::string& path, const Record& record);

// Nothing when they agree, else what differs and where.
std::string disagreement(const Observation& emulated, const Record::Entry& gpu);

// All outputs of a run, uncompressed: what a GPU program writes as it goes, and what a record is made from.
struct RawRun {
    std::string gpu, driver, date;
    std::vector<Observation> outputs;
};
std::string raw_header(const std::string& gpu, const std::string& driver, const std::string& date);
std::string raw_bytes(const Observation& o);
Result<RawRun> read_raw(const std::string& path);

constexpr const char* kInstructionRecord = "instructions.json";
constexpr const char* kKernelRecord = "integers.json";

}  // namespace hopfill::testing
