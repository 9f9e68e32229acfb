// What ran on a GPU, recorded by kernel: evidence/<key>.json (DESIGN.md, 'Evidence').
#pragma once

#include <string>
#include <vector>

namespace hopfill::gpu {

struct RecordedOutput {
    std::string text;    // check::to_string of the case
    std::string sha256;  // of check::Outcome::output
};

struct Evidence {
    std::string key, kernel, gpu, driver, date;
    int cases = 0;              // passed; all of those that the planner gave to this kernel
    double worst = 0;           // share of the tolerance that the worst case used
    int same_bits_launches = 0;
    std::vector<RecordedOutput> outputs;
};

// False when the folder cannot be written.
bool write_evidence(const std::string& folder, const Evidence& e);
// Every well-formed evidence/<key>.json of a folder.
std::vector<Evidence> read_evidence(const std::string& folder);

}  // namespace hopfill::gpu
