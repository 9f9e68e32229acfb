#include "fidelity.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "case_builder.h"
#include "cuda/digest.h"
#include "cuda/kernel_image.h"

namespace hopfill::testing {
namespace {

constexpr std::size_t kWords = 4;  // of an exact output, to see what differs
constexpr std::size_t kRows = 16;  // of a workload's LSE
constexpr const char* kLse = " lse";

std::string hex(const std::vector<u8>& bytes) {
    std::string text;
    for (u8 b : bytes) text += fmt::format("{:02x}", b);
    return text;
}

std::vector<u8> from_hex(const std::string& text) {
    std::vector<u8> bytes;
    for (std::size_t i = 0; i + 1 < text.size(); i += 2) bytes.push_back(static_cast<u8>(std::stoi(text.substr(i, 2), nullptr, 16)));
    return bytes;
}

template <class T>
T element(const std::vector<u8>& bytes, std::size_t i) {
    T v;
    std::memcpy(&v, bytes.data() + i * sizeof(T), sizeof(T));
    return v;
}

// Where the kept words of an exact output lie.
std::size_t word_at(std::size_t words, std::size_t i) { return words * (2 * i + 1) / (2 * kWords); }

bool near(float a, float b, const Judge& judge) {
    if (std::isnan(a) || std::isnan(b)) return std::isnan(a) && std::isnan(b);
    return a == b || std::fabs(static_cast<double>(a) - b) <= std::max(judge.absolute, judge.relative * std::fabs(static_cast<double>(b)));
}

}  // namespace

std::vector<Observation> observe(const Workload& workload, const Case& c, const std::string& key) {
    std::vector<float> rows;
    const std::vector<float>& lse = workload.lse();
    for (std::size_t i = 0; i < kRows; ++i) rows.push_back(lse[lse.size() * i / kRows]);
    return {{c.name + " o", key, bytes_of(workload.output())}, {c.name + kLse, key, bytes_of(rows)}};
}

Observation observe(const QuantizeWorkload& workload, const QuantizeCase& c, const std::string& key) {
    return {fmt::format("{} d{} h{} kv={}", c.name, c.head_dim, c.heads, fmt::join(c.lens, ",")), key, workload.output()};
}

Observation observe(const WidenWorkload& workload, const WidenCase& c, const std::string& key) {
    return {fmt::format("{} d{} h{} b{} s{}", c.name, c.head_dim, c.heads, c.batch, c.seq), key, workload.output()};
}

std::string key_of(const WidenCase& c, const InstructionKernels& kernels) {
    const auto found = kernels.find(planner::kernel_name(widening_to(c.f16 ? Elem::f16 : Elem::bf16)));
    return found == kernels.end() ? "" : found->second.key;
}

std::string key_of(QuantizeWorkload& workload, const InstructionKernels& kernels) {
    QuantizeWorkload::Memory& m = workload.poisoned();
    const auto launches = workload.launches(m.in.data(), m.cu.data(), m.out.data(), m.scale.data(), m.mean.data());
    if (!launches) return "";
    std::string keys;
    for (const planner::QuantizeLaunch& launch : *launches) {
        const auto found = kernels.find(planner::kernel_name(launch.config));
        if (found == kernels.end()) return "";
        keys += found->second.key;
    }
    return cuda::sha256_hex(keys);
}

Judge judge_of(const std::string& name) {
    for (const InstructionCase& c : instruction_cases())
        if (c.name == name) return c.judge;
    return name.ends_with(kLse) ? Judge{false, 0x1p-20, 0x1p-20} : Judge{};
}

Record::Entry entry_of(const Observation& o) {
    Record::Entry e{o.key, "", o.output};
    if (!judge_of(o.name).exact) return e;
    e.sha256 = cuda::sha256_hex({reinterpret_cast<const char*>(o.output.data()), o.output.size()});
    std::vector<u32> words;
    for (std::size_t i = 0; i < kWords; ++i) words.push_back(element<u32>(o.output, word_at(o.output.size() / 4, i)));
    e.values = bytes_of(words);
    return e;
}

Result<Record> read_record(const std::string& path) {
    std::ifstream in(path);
    const auto json = nlohmann::json::parse(in, nullptr, false);
    if (!json.is_object() || !json.contains("cases")) return Error{Code::invalid_argument, path, "is missing or no record of a GPU run"};
    Record r{json.value("gpu", ""), json.value("driver", ""), json.value("date", ""), {}};
    for (const auto& c : json.at("cases"))
        r.cases[c.value("case", "")] = {c.value("key", ""), c.value("sha256", ""), from_hex(c.value("values", ""))};
    return r;
}

// A case a line, so that a change shows as what it is.
bool write_record(const std::string& path, const Record& record) {
    std::ofstream out(path);
    using Json = nlohmann::ordered_json;
    out << "{\"gpu\": " << Json(record.gpu) << ", \"driver\": " << Json(record.driver) << ", \"date\": " << Json(record.date) << ", \"cases\": [\n";
    std::size_t left = record.cases.size();
    for (const auto& [name, e] : record.cases) {
        Json line{{"case", name}, {"key", e.key}};
        if (!e.sha256.empty()) line["sha256"] = e.sha256;
        line["values"] = hex(e.values);
        out << line.dump() << (--left == 0 ? "\n" : ",\n");
    }
    out << "]}\n";
    return out.good();
}

std::string disagreement(const Observation& emulated, const Record::Entry& gpu) {
    const Judge judge = judge_of(emulated.name);
    if (judge.exact) {
        const Record::Entry own = entry_of(emulated);
        if (own.sha256 == gpu.sha256) return "";
        std::string text = "SHA-256 of the output differs";
        for (std::size_t i = 0; i < kWords && 4 * i + 4 <= gpu.values.size(); ++i)
            text += fmt::format("; word {} is {:08x}, the GPU's {:08x}", word_at(emulated.output.size() / 4, i), element<u32>(own.values, i),
                                element<u32>(gpu.values, i));
        return text;
    }
    if (emulated.output.size() != gpu.values.size()) return fmt::format("{} bytes, the GPU's {}", emulated.output.size(), gpu.values.size());
    for (std::size_t i = 0; i < gpu.values.size() / 4; ++i) {
        const float a = element<float>(emulated.output, i), b = element<float>(gpu.values, i);
        if (!near(a, b, judge))
            return fmt::format("value {} is {} ({:08x}), the GPU's {} ({:08x})", i, a, emulator::to_bits(a), b, emulator::to_bits(b));
    }
    return "";
}

std::string raw_header(const std::string& gpu, const std::string& driver, const std::string& date) {
    std::string bytes;
    for (const std::string& field : {gpu, driver, date}) cuda::append_field(bytes, field);
    return bytes;
}

std::string raw_bytes(const Observation& o) {
    std::string bytes;
    cuda::append_field(bytes, o.name);
    cuda::append_field(bytes, o.key);
    cuda::append_field(bytes, {reinterpret_cast<const char*>(o.output.data()), o.output.size()});
    return bytes;
}

Result<RawRun> read_raw(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    const std::string bytes{std::istreambuf_iterator<char>(in), {}};
    std::string_view rest = bytes;
    const auto gpu = cuda::take_field(rest), driver = cuda::take_field(rest), date = cuda::take_field(rest);
    if (!date) return Error{Code::invalid_argument, path, "is missing or no GPU run"};
    RawRun run{std::string(*gpu), std::string(*driver), std::string(*date), {}};
    while (!rest.empty()) {
        const auto name = cuda::take_field(rest), key = cuda::take_field(rest), output = cuda::take_field(rest);
        if (!output) return Error{Code::invalid_argument, path, "ends in the middle of an output"};
        run.outputs.push_back({std::string(*name), std::string(*key), {output->begin(), output->end()}});
    }
    return run;
}

}  // namespace hopfill::testing
