// SHA-256 (FIPS 180-4) as libcrypto computes it.
#pragma once

#include <string>
#include <string_view>

namespace hopfill::cuda {

// Feed parts, then take the lower-case hexadecimal digest once.
class Sha256 {
public:
    Sha256();
    ~Sha256();
    Sha256(const Sha256&) = delete;
    Sha256& operator=(const Sha256&) = delete;
    Sha256& add(std::string_view bytes);
    // A part with its length, so that no two lists of parts are alike.
    Sha256& add_field(std::string_view bytes);
    std::string hex();

private:
    struct State;
    State* state_;
};

inline std::string sha256_hex(std::string_view bytes) { return Sha256().add(bytes).hex(); }

}  // namespace hopfill::cuda
