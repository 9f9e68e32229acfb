#include "cuda/catalogue.h"

#include <fmt/format.h>

#include <charconv>

#include "cuda/kernel_image.h"

namespace hopfill::cuda {

void append_entry(std::string& blob, const KernelInfo& info, std::string_view packed) {
    append_field(blob, info.name);
    append_field(blob, info.key);
    append_field(blob, info.evidence);
    append_field(blob, fmt::format("{} {} {}", info.registers, info.shared_bytes, info.spill_bytes));
    append_field(blob, packed);
}

std::vector<CatalogueEntry> read_catalogue(std::string_view blob) {
    std::vector<CatalogueEntry> entries;
    while (!blob.empty()) {
        CatalogueEntry e;
        const auto name = take_field(blob), key = take_field(blob), evidence = take_field(blob), numbers = take_field(blob),
                   packed = take_field(blob);
        if (!packed) break;
        e.info.name = *name;
        e.info.key = *key;
        e.info.evidence = *evidence;
        const char* at = numbers->data();
        const char* end = at + numbers->size();
        for (int* number : {&e.info.registers, &e.info.shared_bytes, &e.info.spill_bytes}) {
            if (at != end && *at == ' ') ++at;
            at = std::from_chars(at, end, *number).ptr;
        }
        e.packed = *packed;
        entries.push_back(std::move(e));
    }
    return entries;
}

}  // namespace hopfill::cuda
