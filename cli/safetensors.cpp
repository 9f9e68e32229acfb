#include "safetensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <utility>

namespace hopfill::cli {
namespace {

using nlohmann::json;

constexpr std::uint64_t kMaxHeader = 100'000'000;  // the format's own limit
constexpr std::uint64_t kLengthBytes = 8;

// Sizes in bytes of the format's dtypes. Those of less than a byte are not listed: no tensor here has one.
constexpr std::array<std::pair<std::string_view, std::uint64_t>, 18> kDTypes{{{"BOOL", 1},
                                                                              {"U8", 1},
                                                                              {"I8", 1},
                                                                              {"F8_E4M3", 1},
                                                                              {"F8_E5M2", 1},
                                                                              {"F8_E8M0", 1},
                                                                              {"F8_E4M3FNUZ", 1},
                                                                              {"F8_E5M2FNUZ", 1},
                                                                              {"I16", 2},
                                                                              {"U16", 2},
                                                                              {"F16", 2},
                                                                              {"BF16", 2},
                                                                              {"I32", 4},
                                                                              {"U32", 4},
                                                                              {"F32", 4},
                                                                              {"I64", 8},
                                                                              {"U64", 8},
                                                                              {"F64", 8}}};

Error fault(std::string argument, std::string message) { return {Code::invalid_argument, std::move(argument), std::move(message)}; }

// Names come from the file: only what is safe to print in one line is.
std::string printable(std::string_view name) {
    std::string out;
    for (const char c : name.substr(0, 64)) out += c >= ' ' && c != '\x7f' ? c : '?';
    return out + (name.size() > 64 ? "..." : "");
}

// Parses, refusing names that occur twice in one object (nlohmann keeps the last of them without a word).
Result<json> parse_json(std::string_view text) {
    std::vector<std::set<std::string, std::less<>>> open;
    std::optional<std::string> twice;
    const auto watch = [&](int, json::parse_event_t event, json& value) {
        if (event == json::parse_event_t::object_start) open.emplace_back();
        if (event == json::parse_event_t::object_end) open.pop_back();
        if (event == json::parse_event_t::key && !open.back().insert(value.get<std::string>()).second && !twice) twice = value.get<std::string>();
        return true;
    };
    json parsed = json::parse(text, watch, false);
    if (parsed.is_discarded()) return fault("", "safetensors header is not JSON");
    if (twice) return fault(printable(*twice), "occurs twice in the safetensors header");
    if (!parsed.is_object()) return fault("", "safetensors header is not a JSON object");
    return parsed;
}

Result<std::vector<std::uint64_t>> unsigned_list(const json& tensor, const char* field, const std::string& name) {
    const auto found = tensor.find(field);
    if (found == tensor.end() || !found->is_array()) return fault(name, fmt::format("has no list \"{}\"", field));
    std::vector<std::uint64_t> out;
    for (const json& item : *found) {
        if (!item.is_number_unsigned()) return fault(name, fmt::format("has \"{}\" with an item that is no whole number from 0", field));
        out.push_back(item.get<std::uint64_t>());
    }
    return out;
}

Result<StoredTensor> parse_tensor(const std::string& key, const json& tensor, std::uint64_t data_start, std::uint64_t data_bytes) {
    const std::string name = printable(key);
    if (!tensor.is_object()) return fault(name, "is not a JSON object in the safetensors header");
    const auto dtype = tensor.find("dtype");
    if (dtype == tensor.end() || !dtype->is_string()) return fault(name, "has no \"dtype\"");
    const std::string type = dtype->get<std::string>();
    const auto* known = std::find_if(kDTypes.begin(), kDTypes.end(), [&](const auto& d) { return d.first == type; });
    if (known == kDTypes.end()) return fault(name, fmt::format("has unknown dtype \"{}\"", printable(type)));
    Result<std::vector<std::uint64_t>> shape = unsigned_list(tensor, "shape", name), offsets = unsigned_list(tensor, "data_offsets", name);
    if (!shape) return shape.error();
    if (!offsets) return offsets.error();
    if (offsets->size() != 2) return fault(name, fmt::format("has {} data_offsets; 2 are needed", offsets->size()));

    StoredTensor out;
    out.name = key;
    out.dtype = type;
    std::uint64_t bytes = known->second;
    for (const std::uint64_t extent : *shape) {
        std::int64_t fits = 0;
        if (__builtin_mul_overflow(bytes, extent, &bytes) || __builtin_add_overflow(extent, 0, &fits)) {
            return fault(name, fmt::format("has shape [{}] and so more bytes than 64 bits count", fmt::join(*shape, ", ")));
        }
        out.shape.push_back(fits);
    }
    const std::uint64_t begin = (*offsets)[0], end = (*offsets)[1];
    if (begin > end) return fault(name, fmt::format("has data_offsets [{}, {}], which run backwards", begin, end));
    if (end > data_bytes) return fault(name, fmt::format("ends at byte {} of {}: the file is truncated or the offsets are wrong", end, data_bytes));
    if (end - begin != bytes) {
        return fault(
            name, fmt::format("has {} bytes by its data_offsets and {} by its shape [{}] of {}", end - begin, bytes, fmt::join(*shape, ", "), type));
    }
    out.offset = data_start + begin;
    out.bytes = bytes;
    return out;
}

// The format has the tensors fill the data without overlap and without holes.
Result<void> check_cover(std::vector<StoredTensor>& tensors, std::uint64_t data_start, std::uint64_t file_bytes) {
    std::sort(tensors.begin(), tensors.end(),
              [](const StoredTensor& a, const StoredTensor& b) { return std::pair(a.offset, a.bytes) < std::pair(b.offset, b.bytes); });
    for (std::size_t i = 1; i < tensors.size(); ++i) {
        const StoredTensor &before = tensors[i - 1], &t = tensors[i];
        if (t.offset < before.offset + before.bytes) return fault(printable(t.name), fmt::format("overlaps {} in the file", printable(before.name)));
    }
    std::uint64_t at = data_start;
    for (const StoredTensor& t : tensors) {
        if (t.offset != at)
            return fault(printable(t.name), fmt::format("begins {} bytes after the tensor before it: the file has a hole", t.offset - at));
        at += t.bytes;
    }
    if (at != file_bytes)
        return fault(tensors.empty() ? "" : printable(tensors.back().name),
                     fmt::format("is followed by {} bytes that no tensor owns", file_bytes - at));
    return {};
}

}  // namespace

Result<std::uint64_t> safetensors_head_bytes(std::span<const std::byte> first, std::uint64_t file_bytes) {
    if (first.size() < kLengthBytes || file_bytes < kLengthBytes)
        return fault("", fmt::format("file has {} bytes, too few for a safetensors header", file_bytes));
    std::uint64_t length = 0;
    for (std::size_t i = 0; i < kLengthBytes; ++i) length |= static_cast<std::uint64_t>(first[i]) << (8 * i);
    if (length > kMaxHeader) return fault("", fmt::format("safetensors header claims {} bytes; at most {} are allowed", length, kMaxHeader));
    if (length > file_bytes - kLengthBytes) {
        return fault("", fmt::format("safetensors header claims {} bytes of a file of {}: truncated, or not a safetensors file", length, file_bytes));
    }
    return kLengthBytes + length;
}

Result<std::vector<StoredTensor>> parse_safetensors(std::span<const std::byte> head, std::uint64_t file_bytes) {
    Result<std::uint64_t> data_start = safetensors_head_bytes(head, file_bytes);
    if (!data_start) return data_start.error();
    if (head.size() < *data_start) return fault("", "safetensors header is truncated");
    const std::string_view text(reinterpret_cast<const char*>(head.data()) + kLengthBytes, static_cast<std::size_t>(*data_start - kLengthBytes));
    if (text.empty() || text.front() != '{') return fault("", "safetensors header does not begin with '{'");
    Result<json> header = parse_json(text);
    if (!header) return header.error();
    std::vector<StoredTensor> tensors;
    for (const auto& [name, value] : header->items()) {
        if (name == "__metadata__") {
            if (!value.is_object()) return fault("__metadata__", "is not a JSON object");
            for (const json& item : value) {
                if (!item.is_string()) return fault("__metadata__", "holds a value that is no string");
            }
            continue;
        }
        Result<StoredTensor> tensor = parse_tensor(name, value, *data_start, file_bytes - *data_start);
        if (!tensor) return tensor.error();
        tensors.push_back(std::move(*tensor));
    }
    if (auto covered = check_cover(tensors, *data_start, file_bytes); !covered) return covered.error();
    return tensors;
}

std::string safetensors_header(const std::vector<TensorToStore>& tensors) {
    json header = json::object();
    std::uint64_t at = 0;
    for (const TensorToStore& t : tensors) {
        header[t.name] = {{"dtype", t.dtype}, {"shape", t.shape}, {"data_offsets", {at, at + t.data.size()}}};
        at += t.data.size();
    }
    std::string text = header.dump();
    text.resize((text.size() + 7) / 8 * 8, ' ');
    std::string out(kLengthBytes, '\0');
    for (std::size_t i = 0; i < kLengthBytes; ++i) out[i] = static_cast<char>(text.size() >> (8 * i) & 0xff);
    return out + text;
}

}  // namespace hopfill::cli
