#include "cuda/nvrtc.h"

#include <dlfcn.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>

namespace hopfill::cuda {
namespace {

namespace fs = std::filesystem;
using nvrtcProgram = struct NvrtcProgram_st*;

}  // namespace

// name, parameters: NVRTC's own (CUDA 12 and 13 agree on all of these). Results are an enumeration, 0 is success.
#define HOPFILL_NVRTC_FUNCTIONS(X)                                                                                           \
    X(nvrtcVersion, (int*, int*))                                                                                            \
    X(nvrtcCreateProgram, (nvrtcProgram*, const char*, const char*, int, const char* const*, const char* const*))            \
    X(nvrtcDestroyProgram, (nvrtcProgram*))                                                                                  \
    X(nvrtcCompileProgram, (nvrtcProgram, int, const char* const*))                                                          \
    X(nvrtcGetCUBINSize, (nvrtcProgram, std::size_t*))                                                                       \
    X(nvrtcGetCUBIN, (nvrtcProgram, char*))                                                                                  \
    X(nvrtcGetProgramLogSize, (nvrtcProgram, std::size_t*))                                                                  \
    X(nvrtcGetProgramLog, (nvrtcProgram, char*))                                                                             \
    X(nvrtcAddNameExpression, (nvrtcProgram, const char*))                                                                   \
    X(nvrtcGetLoweredName, (nvrtcProgram, const char*, const char**))

struct Nvrtc::Functions {
#define HOPFILL_DECLARE(name, parameters) int(*name) parameters = nullptr;
    HOPFILL_NVRTC_FUNCTIONS(HOPFILL_DECLARE)
#undef HOPFILL_DECLARE
    const char* (*nvrtcGetErrorString)(int) = nullptr;
};

namespace {

constexpr const char* kSonames[] = {"libnvrtc.so.13", "libnvrtc.so.12"};
// Where wheels of CUDA 12 and 13 put their libraries, below site-packages.
constexpr const char* kWheelFolders[] = {"nvidia/cu13/lib", "nvidia/cuda_nvrtc/lib"};

// libnvrtc.so.<major> in a folder, by whatever major it is.
std::vector<std::string> nvrtc_in(const fs::path& folder) {
    std::vector<std::string> found;
    std::error_code ignored;
    for (const auto& entry : fs::directory_iterator(folder, ignored)) {
        const std::string name = entry.path().filename();
        if (name.starts_with("libnvrtc.so.") && std::ranges::count(name, '.') == 2) found.push_back(entry.path());
    }
    std::ranges::sort(found);
    return found;
}

// site-packages: this library may lie in one (a wheel beside NVIDIA's), and a virtual environment has one.
std::vector<fs::path> site_packages() {
    std::vector<fs::path> roots;
    Dl_info self{};
    if (dladdr(reinterpret_cast<void*>(&nvrtc), &self) != 0 && self.dli_fname != nullptr) {
        std::error_code ignored;
        fs::path folder = fs::weakly_canonical(self.dli_fname, ignored).parent_path();
        for (int depth = 0; depth < 3 && folder.has_relative_path(); ++depth, folder = folder.parent_path()) roots.push_back(folder);
    }
    if (const char* environment = std::getenv("VIRTUAL_ENV")) {
        std::error_code ignored;
        for (const auto& entry : fs::directory_iterator(fs::path(environment) / "lib", ignored)) roots.push_back(entry.path() / "site-packages");
    }
    return roots;
}

std::vector<std::string> candidates() {
    std::vector<std::string> paths;
    for (const fs::path& root : site_packages())
        for (const char* folder : kWheelFolders) std::ranges::copy(nvrtc_in(root / folder), std::back_inserter(paths));
#ifdef HOPFILL_BUILD_NVRTC
    paths.emplace_back(HOPFILL_BUILD_NVRTC);
#endif
    for (const char* soname : kSonames) paths.emplace_back(soname);
    std::vector<fs::path> toolkits;
    if (const char* home = std::getenv("CUDA_HOME")) toolkits.emplace_back(home);
    toolkits.emplace_back("/usr/local/cuda");
    for (const fs::path& toolkit : toolkits) std::ranges::copy(nvrtc_in(toolkit / "lib64"), std::back_inserter(paths));
    return paths;
}

Result<Nvrtc> bind(void* library) {
    auto* f = new Nvrtc::Functions;  // lives as long as the process, as the library does
    const char* missing = nullptr;
#define HOPFILL_OPEN(name, parameters)                                    \
    f->name = reinterpret_cast<int(*) parameters>(dlsym(library, #name)); \
    if (f->name == nullptr) missing = #name;
    HOPFILL_NVRTC_FUNCTIONS(HOPFILL_OPEN)
#undef HOPFILL_OPEN
    f->nvrtcGetErrorString = reinterpret_cast<const char* (*)(int)>(dlsym(library, "nvrtcGetErrorString"));
    if (f->nvrtcGetErrorString == nullptr) missing = "nvrtcGetErrorString";
    Nvrtc n;
    n.functions = f;
    Dl_info where{};
    if (f->nvrtcVersion != nullptr && dladdr(reinterpret_cast<void*>(f->nvrtcVersion), &where) != 0) n.path = where.dli_fname;
    if (missing != nullptr) return Error{Code::unavailable, "", fmt::format("NVRTC {} lacks {}", n.path, missing)};
    int major = 0, minor = 0;
    f->nvrtcVersion(&major, &minor);
    if (major < 12) return Error{Code::unavailable, "", fmt::format("NVRTC {} is version {}.{}; 12.0 or newer is needed", n.path, major, minor)};
    n.version = fmt::format("{}.{}", major, minor);
    return n;
}

Result<Nvrtc> open_nvrtc() {
    if (const char* chosen = std::getenv("HOPFILL_NVRTC"); chosen != nullptr && *chosen != '\0') {
        if (void* library = dlopen(chosen, RTLD_NOW | RTLD_LOCAL)) return bind(library);
        return Error{Code::unavailable, "HOPFILL_NVRTC", fmt::format("cannot be opened: {}", dlerror())};
    }
    for (const char* soname : kSonames)
        if (void* library = dlopen(soname, RTLD_NOW | RTLD_LOCAL | RTLD_NOLOAD)) return bind(library);
    const std::vector<std::string> paths = candidates();
    for (const std::string& path : paths)
        if (void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) return bind(library);
    return Error{
        Code::unavailable, "",
        fmt::format("no NVRTC: looked for {}; `pip install nvidia-cuda-nvrtc` or set HOPFILL_NVRTC to a libnvrtc.so", fmt::join(paths, ", "))};
}

struct ProgramHandle {
    const Nvrtc::Functions& f;
    nvrtcProgram program = nullptr;
    ~ProgramHandle() {
        if (program != nullptr) f.nvrtcDestroyProgram(&program);
    }
};

std::string program_log(const Nvrtc::Functions& f, nvrtcProgram program) {
    std::size_t size = 0;
    if (f.nvrtcGetProgramLogSize(program, &size) != 0 || size <= 1) return {};
    std::string log(size, '\0');
    f.nvrtcGetProgramLog(program, log.data());
    log.resize(size - 1);
    return log;
}

}  // namespace

Result<NvrtcOutput> Nvrtc::compile(const NvrtcProgram& p) const {
    const Functions& f = *functions;
    std::vector<const char*> names, texts, options;
    for (const Source& h : p.headers) {
        names.push_back(h.name);
        texts.push_back(h.text);
    }
    for (const std::string& o : p.options) options.push_back(o.c_str());
    // From 13.0 on NVRTC keeps results of its own; from there the log comes back empty, and the log tells of spills.
    if (std::atoi(version.c_str()) >= 13) options.push_back("--no-cache");
    ProgramHandle handle{f};
    const auto failed = [&](const char* what, int status) {
        return Error{Code::internal, "",
                     fmt::format("NVRTC {}: {}: {}\n{}", version, what, f.nvrtcGetErrorString(status), program_log(f, handle.program))};
    };
    if (int s = f.nvrtcCreateProgram(&handle.program, p.text.c_str(), "hopfill.cu", static_cast<int>(names.size()), texts.data(), names.data());
        s != 0)
        return failed("nvrtcCreateProgram", s);
    if (!p.name_expression.empty())
        if (int s = f.nvrtcAddNameExpression(handle.program, p.name_expression.c_str()); s != 0) return failed("nvrtcAddNameExpression", s);
    if (int s = f.nvrtcCompileProgram(handle.program, static_cast<int>(options.size()), options.data()); s != 0) return failed("compile", s);
    NvrtcOutput out;
    out.log = program_log(f, handle.program);
    std::size_t size = 0;
    if (int s = f.nvrtcGetCUBINSize(handle.program, &size); s != 0) return failed("nvrtcGetCUBINSize", s);
    out.cubin.resize(size);
    if (int s = f.nvrtcGetCUBIN(handle.program, out.cubin.data()); s != 0) return failed("nvrtcGetCUBIN", s);
    if (!p.name_expression.empty()) {
        const char* lowered = nullptr;
        if (int s = f.nvrtcGetLoweredName(handle.program, p.name_expression.c_str(), &lowered); s != 0) return failed("nvrtcGetLoweredName", s);
        out.lowered_name = lowered;
    }
    return out;
}

Result<const Nvrtc*> nvrtc() {
    static const Result<Nvrtc> opened = open_nvrtc();
    if (!opened) return opened.error();
    return &opened.value();
}

}  // namespace hopfill::cuda
