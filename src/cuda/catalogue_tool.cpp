// hopfill_catalogue: compiles the planner's kernels when the library is built, and lists them.
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <new>
#include <nlohmann/json.hpp>
#include <regex>
#include <thread>

#include "cuda/catalogue.h"
#include "cuda/compile.h"
#include "cuda/disk_cache.h"
#include "plan/launch.h"

namespace hopfill::cuda {
namespace {

namespace fs = std::filesystem;

constexpr const char* kUsage =
    "usage: hopfill_catalogue [--table shipped|tuning] [--only REGEX] [--cache DIR] [--evidence DIR] [--jobs N] [--allow-faults] [--output BLOB] "
    "[--list] [--json] [--cubins DIR]\n";

struct Arguments {
    std::string table = "shipped", only = ".", output;
    fs::path cache, evidence, cubins;
    unsigned jobs = std::thread::hardware_concurrency();
    bool list = false, json = false, allow_faults = false;
};

struct Job {
    KernelConfig config;
    std::string name, key;
};

bool parse(int count, char** words, Arguments& a) {
    for (int i = 1; i < count; ++i) {
        const std::string word = words[i];
        if (word == "--list" || word == "--json" || word == "--allow-faults") {
            (word == "--list" ? a.list : word == "--json" ? a.json : a.allow_faults) = true;
            continue;
        }
        if (++i == count) return false;
        const std::string value = words[i];
        if (word == "--table")
            a.table = value;
        else if (word == "--output")
            a.output = value;
        else if (word == "--only")
            a.only = value;
        else if (word == "--cache")
            a.cache = value;
        else if (word == "--evidence")
            a.evidence = value;
        else if (word == "--cubins")
            a.cubins = value;
        else if (word == "--jobs")
            a.jobs = static_cast<unsigned>(std::atoi(value.c_str()));
        else
            return false;
    }
    return a.jobs > 0 && (a.table == "shipped" || a.table == "tuning");
}

// Processes rather than threads: NVRTC compiles one program at a time in a process.
void compile_missing(const std::vector<Job>& missing, const DiskCache& cache, unsigned jobs) {
    void* shared = mmap(nullptr, sizeof(std::atomic<std::size_t>), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED) return;
    auto* next = new (shared) std::atomic<std::size_t>(0);
    std::fflush(nullptr);
    for (unsigned worker = 0; worker < std::min<std::size_t>(jobs, missing.size()); ++worker) {
        if (fork() != 0) continue;
        for (std::size_t i = next->fetch_add(1); i < missing.size(); i = next->fetch_add(1)) {
            const auto image = compile_kernel(missing[i].config);
            if (!image)
                fmt::print(stderr, "{}\n", image.error().text());
            else if (!cache.store(missing[i].key, *image))
                fmt::print(stderr, "{}: cannot write {}\n", missing[i].name, cache.file(missing[i].key).string());
            else
                DiskCache(default_cache_folder()).store(missing[i].key, *image);
        }
        std::fflush(nullptr);
        _exit(0);
    }
    while (wait(nullptr) > 0) {
    }
    munmap(shared, sizeof(std::atomic<std::size_t>));
}

// "GPU, date" of evidence/<key>.json, or nothing.
std::string evidence_of(const fs::path& folder, const std::string& key) {
    std::ifstream in(folder / (key + ".json"));
    if (folder.empty() || !in) return {};
    const auto json = nlohmann::json::parse(in, nullptr, false);
    if (!json.is_object() || json.value("key", "") != key) {
        fmt::print(stderr, "evidence/{}.json is damaged\n", key);
        return {};
    }
    return fmt::format("{}, {}", json.value("gpu", "?"), json.value("date", "?"));
}

void print_list(const std::vector<KernelInfo>& kernels, const std::vector<KernelImage>& images) {
    fmt::print("{:44} {:>4} {:>7} {:>6} {:>6}  {:64}  {}\n", "kernel", "regs", "shared", "spills", "cubin", "key", "evidence");
    for (std::size_t i = 0; i < kernels.size(); ++i) {
        const KernelInfo& k = kernels[i];
        fmt::print("{:44} {:>4} {:>7} {:>6} {:>6}  {:64}  {}\n", k.name, k.registers, k.shared_bytes, k.spill_bytes, images[i].cubin.size(), k.key,
                   k.evidence.empty() ? "-" : k.evidence);
        for (const std::string& fault : images[i].faults) fmt::print("    {}\n", fault);
    }
}

void print_json(const std::vector<KernelInfo>& kernels, const std::vector<KernelImage>& images) {
    auto rows = nlohmann::json::array();
    for (std::size_t i = 0; i < kernels.size(); ++i) {
        const KernelInfo& k = kernels[i];
        rows.push_back({{"name", k.name}, {"key", k.key}, {"registers", k.registers}, {"shared", k.shared_bytes}, {"spills", k.spill_bytes},
                        {"stack", images[i].stack_bytes}, {"nvrtc", images[i].compiler}, {"faults", images[i].faults}, {"evidence", k.evidence}});
    }
    fmt::print("{}\n", rows.dump(1));
}

bool write_blob(const std::string& path, const std::string& bytes) {
    std::ofstream out(path, std::ios::binary);
    out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    return out.good();
}

int run(const Arguments& a) {
    const auto compiler = nvrtc();
    if (!compiler) {
        fmt::print(stderr, "{}\n", compiler.error().text());
        return 2;
    }
    fs::path scratch;
    if (a.cache.empty()) {
        scratch = fs::temp_directory_path() / fmt::format("hopfill_catalogue.{}", getpid());
        fs::create_directories(scratch);
    }
    const DiskCache cache(a.cache.empty() ? scratch : a.cache);
    const DiskCache users(default_cache_folder());
    std::vector<Job> jobs, missing;
    const std::regex only(a.only);
    for (const KernelConfig& config : a.table == "shipped" ? planner::kernel_table() : planner::tuning_table()) {
        if (!std::regex_search(planner::kernel_name(config), only)) continue;
        const auto program = program_for(config);
        if (!program) {
            fmt::print(stderr, "{}\n", program.error().text());
            return 3;
        }
        jobs.push_back({config, planner::kernel_name(config), cache_key(*program, **compiler)});
        const std::string& key = jobs.back().key;
        if (cache.load(key)) continue;
        // Another build tree of this user may have compiled it.
        if (const auto image = users.load(key); !image || !cache.store(key, *image)) missing.push_back(jobs.back());
    }
    compile_missing(missing, cache, a.jobs);

    std::string blob;
    std::vector<KernelInfo> kernels;
    std::vector<KernelImage> images;
    bool failed = false;
    for (const Job& job : jobs) {
        auto image = cache.load(job.key);
        if (!image) {
            failed |= a.table == "shipped";
            continue;
        }
        for (const std::string& fault : image->faults) fmt::print(stderr, "{}: {}\n", job.name, fault);
        failed |= !a.allow_faults && !image->faults.empty();
        KernelInfo info{
            job.name, image->key, image->registers, planner::shared_bytes(job.config), image->spill_bytes, evidence_of(a.evidence, image->key)};
        append_entry(blob, info, pack(*image));
        if (!a.cubins.empty()) {
            fs::create_directories(a.cubins);
            std::ofstream(a.cubins / (job.name + ".cubin"), std::ios::binary)
                .write(image->cubin.data(), static_cast<std::streamsize>(image->cubin.size()));
        }
        kernels.push_back(std::move(info));
        images.push_back(std::move(*image));
    }
    if (!scratch.empty()) fs::remove_all(scratch);
    if (a.list) print_list(kernels, images);
    if (a.json) print_json(kernels, images);
    if (failed) return 1;
    if (!a.output.empty() && !write_blob(a.output, blob)) {
        fmt::print(stderr, "cannot write {}\n", a.output);
        return 2;
    }
    if (!a.output.empty() && !missing.empty())
        fmt::print("{} kernels, {} compiled with NVRTC {}, {} bytes\n", kernels.size(), missing.size(), (*compiler)->version, blob.size());
    return 0;
}

}  // namespace
}  // namespace hopfill::cuda

int main(int count, char** words) {
    hopfill::cuda::Arguments arguments;
    if (!hopfill::cuda::parse(count, words, arguments)) {
        std::fputs(hopfill::cuda::kUsage, stderr);
        return 2;
    }
    return hopfill::cuda::run(arguments);
}
