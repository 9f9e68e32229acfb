#include "cuda/kernel_image.h"

#include <fmt/format.h>
#include <zstd.h>

#include <charconv>
#include <cstdint>
#include <cstring>

#include "cuda/digest.h"

namespace hopfill::cuda {
namespace {

constexpr std::string_view kMagic = "hopfill kernel 1\n";
constexpr std::size_t kDigest = 64;
constexpr std::size_t kLargestCubin = std::size_t{1} << 28;  // bounds what a damaged length can make us allocate

// The number that ends where `text` has `unit`, as in "12 bytes spill stores".
int number_before(std::string_view text, std::string_view unit) {
    const std::size_t end = text.find(unit);
    if (end == std::string_view::npos) return 0;
    std::size_t begin = end;
    while (begin > 0 && text[begin - 1] >= '0' && text[begin - 1] <= '9') --begin;
    int value = 0;
    std::from_chars(text.data() + begin, text.data() + end, value);
    return value;
}

// C7504 to C7519: wgmma serialised, setmaxnreg ignored, waits injected.
bool is_performance_warning(std::string_view line) {
    for (std::size_t at = line.find("C75"); at != std::string_view::npos; at = line.find("C75", at + 1)) {
        int code = 0;
        if (line.size() >= at + 5) std::from_chars(line.data() + at + 1, line.data() + at + 5, code);
        if (code >= 7504 && code <= 7519) return true;
    }
    return false;
}

}  // namespace

void append_field(std::string& to, std::string_view field) {
    const std::uint64_t size = field.size();
    to.append(reinterpret_cast<const char*>(&size), sizeof(size));
    to.append(field);
}

std::optional<std::string_view> take_field(std::string_view& from) {
    std::uint64_t size = 0;
    if (from.size() < sizeof(size)) return std::nullopt;
    std::memcpy(&size, from.data(), sizeof(size));
    if (size > from.size() - sizeof(size)) return std::nullopt;
    const std::string_view field = from.substr(sizeof(size), size);
    from.remove_prefix(sizeof(size) + size);
    return field;
}

std::string pack(const KernelImage& image) {
    std::string body;
    for (const std::string* field : {&image.name, &image.lowered_name, &image.key, &image.compiler}) append_field(body, *field);
    append_field(body, fmt::format("{} {} {} {}", image.registers, image.spill_bytes, image.stack_bytes, image.barriers));
    std::string faults;
    for (const std::string& fault : image.faults) append_field(faults, fault);
    append_field(body, faults);
    append_field(body, std::to_string(image.cubin.size()));
    std::string compressed(ZSTD_compressBound(image.cubin.size()), '\0');
    compressed.resize(ZSTD_compress(compressed.data(), compressed.size(), image.cubin.data(), image.cubin.size(), 15));
    append_field(body, compressed);
    return fmt::format("{}{}{}", kMagic, sha256_hex(body), body);
}

std::optional<KernelImage> unpack(std::string_view bytes) {
    if (!bytes.starts_with(kMagic) || bytes.size() < kMagic.size() + kDigest) return std::nullopt;
    bytes.remove_prefix(kMagic.size());
    const std::string_view digest = bytes.substr(0, kDigest);
    bytes.remove_prefix(kDigest);
    if (digest != sha256_hex(bytes)) return std::nullopt;
    KernelImage image;
    for (std::string* field : {&image.name, &image.lowered_name, &image.key, &image.compiler}) {
        const auto text = take_field(bytes);
        if (!text) return std::nullopt;
        *field = *text;
    }
    const auto numbers = take_field(bytes);
    auto faults = take_field(bytes);
    const auto size_text = take_field(bytes);
    const auto compressed = take_field(bytes);
    if (!numbers || !faults || !size_text || !compressed || !bytes.empty()) return std::nullopt;
    const char* at = numbers->data();
    const char* end = at + numbers->size();
    for (int* number : {&image.registers, &image.spill_bytes, &image.stack_bytes, &image.barriers}) {
        if (at != end && *at == ' ') ++at;
        at = std::from_chars(at, end, *number).ptr;
    }
    while (!faults->empty()) {
        const auto fault = take_field(*faults);
        if (!fault) return std::nullopt;
        image.faults.emplace_back(*fault);
    }
    std::size_t size = 0;
    std::from_chars(size_text->data(), size_text->data() + size_text->size(), size);
    if (size > kLargestCubin) return std::nullopt;
    image.cubin.resize(size);
    if (ZSTD_decompress(image.cubin.data(), size, compressed->data(), compressed->size()) != size) return std::nullopt;
    return image;
}

const std::string* fault_at_first_use(const KernelImage& image) {
    constexpr int kHarmlessStack = 16;
    const bool harmless = image.stack_bytes <= kHarmlessStack && image.registers > 0;
    for (const std::string& fault : image.faults)
        if (!harmless || is_performance_warning(fault)) return &fault;
    return nullptr;
}

void read_log(std::string_view log, KernelImage& image) {
    while (!log.empty()) {
        const std::size_t length = log.find('\n');
        const std::string_view line = log.substr(0, length);
        log.remove_prefix(length == std::string_view::npos ? log.size() : length + 1);
        if (const int n = number_before(line, " registers"); n > image.registers) image.registers = n;
        if (const int n = number_before(line, " barriers"); n > image.barriers) image.barriers = n;
        image.stack_bytes += number_before(line, " bytes stack frame");
        image.spill_bytes += number_before(line, " bytes spill stores") + number_before(line, " bytes spill loads");
        if (is_performance_warning(line)) image.faults.emplace_back(line);
    }
    if (image.spill_bytes > 0) image.faults.push_back(fmt::format("spills {} bytes", image.spill_bytes));
    if (image.stack_bytes > 0) image.faults.push_back(fmt::format("has a stack frame of {} bytes", image.stack_bytes));
    if (image.registers == 0) image.faults.emplace_back("the log does not tell its registers");
}

}  // namespace hopfill::cuda
