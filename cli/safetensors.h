// The safetensors format: u64 length of a JSON header, the header, the tensors' bytes (https://github.com/huggingface/safetensors, 'Format').
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "hopfill/result.h"

namespace hopfill::cli {

// A tensor in a file. Its offsets are within the file, its extent agrees with dtype and shape.
struct StoredTensor {
    std::string name;
    std::string dtype;  // as the format writes it: "BF16"
    std::vector<std::int64_t> shape;
    std::uint64_t offset = 0;  // from the start of the file
    std::uint64_t bytes = 0;
};

// Reads the header of a file of `file_bytes` bytes whose first bytes are `head` (all of it, or at least the header).
// Errors: invalid_argument, naming the tensor at fault: truncation, a header that is no JSON object, unknown dtypes, shapes that overflow, offsets
// outside the file, overlaps, holes, names that occur twice.
Result<std::vector<StoredTensor>> parse_safetensors(std::span<const std::byte> head, std::uint64_t file_bytes);

// Bytes from the file's start that parse_safetensors() needs, from its first 8. Errors: invalid_argument.
Result<std::uint64_t> safetensors_head_bytes(std::span<const std::byte> first, std::uint64_t file_bytes);

struct TensorToStore {
    std::string name;
    std::string dtype;
    std::vector<std::int64_t> shape;
    std::span<const std::byte> data;
};

// The header (length included, padded to 8 bytes) of a file that holds the tensors in this order.
std::string safetensors_header(const std::vector<TensorToStore>& tensors);

}  // namespace hopfill::cli
