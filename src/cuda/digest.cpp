#include "cuda/digest.h"

// The low-level calls: EVP would link all of libcrypto's providers, megabytes, into every binary.
#define OPENSSL_SUPPRESS_DEPRECATED
#include <openssl/sha.h>

#include <cstdint>

namespace hopfill::cuda {

struct Sha256::State {
    SHA256_CTX context;
};

Sha256::Sha256() : state_(new State) { SHA256_Init(&state_->context); }
Sha256::~Sha256() { delete state_; }

Sha256& Sha256::add(std::string_view bytes) {
    SHA256_Update(&state_->context, bytes.data(), bytes.size());
    return *this;
}

Sha256& Sha256::add_field(std::string_view bytes) {
    const std::uint64_t size = bytes.size();
    add({reinterpret_cast<const char*>(&size), sizeof(size)});
    return add(bytes);
}

std::string Sha256::hex() {
    unsigned char digest[SHA256_DIGEST_LENGTH];
    SHA256_Final(digest, &state_->context);
    std::string text;
    for (unsigned char byte : digest) {
        text += "0123456789abcdef"[byte >> 4];
        text += "0123456789abcdef"[byte & 15];
    }
    return text;
}

}  // namespace hopfill::cuda
