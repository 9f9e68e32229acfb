// hopfill_gpu_fidelity: what a GPU makes of the one-instruction kernels and of the planner's kernels on small integers; the emulator's tests compare.
//   --run RAW           runs all cases on the GPU and writes their outputs
//   --import RAW DIR    turns them into the records of evidence/
// Cases run in a child process. One that hangs or fails is named, and the next child goes on behind it.
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <functional>
#include <new>
#include <thread>

#include "cuda/backend.h"
#include "cuda/catalogue.h"
#include "cuda/driver.h"
#include "cuda/launch.h"
#include "cuda/loader.h"
#include "cuda/memory.h"
#include "cuda/tensor_map.h"
#include "fidelity.h"
#include "instruction_kernels.h"

namespace hopfill::gpu {
namespace {

using namespace testing;
namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr auto kPatience = std::chrono::seconds(10);  // with a case; the first opens the GPU, too
constexpr auto kLongest = std::chrono::seconds(100);
constexpr int kMostFailures = 40;

// Device memory that holds a copy of host memory.
class Mirror {
public:
    Mirror() = default;
    Mirror(const Mirror&) = delete;
    ~Mirror() {
        for (void* p : held_) cuda::release(p);
    }
    Result<void*> add(const void* host, std::size_t bytes) {
        const auto p = cuda::allocate(bytes);
        if (!p) return p;
        held_.push_back(*p);
        if (auto r = cuda::upload(*p, host, bytes); !r) return r.error();
        return p;
    }

private:
    std::vector<void*> held_;
};

Result<std::vector<Observation>> run_instruction(const InstructionCase& c, const cuda::KernelImage& image) {
    const auto opened = cuda::driver();
    if (!opened) return opened.error();
    const cuda::Driver& cu = **opened;
    Mirror memory;
    Place place{{}, [&](const TensorMapSpec& spec) -> Result<TensorMap> {
                    TensorMap map{};
                    if (auto r = cuda::encode(cu, spec, "a box", map); !r) return r.error();
                    return map;
                }};
    for (const CaseBuffer& b : c.buffers) {
        const auto p = memory.add(b.bytes.data(), b.bytes.size());
        if (!p) return p.error();
        place.buffers.push_back(*p);
    }
    auto params = c.params(place);
    if (!params) return params.error();
    cuda::CUmodule module = nullptr;
    cuda::CUfunction function = nullptr;
    if (auto r = cu.check(cu.cuModuleLoadData(&module, image.cubin.data()), "cuModuleLoadData"); !r) return r.error();
    if (auto r = cu.check(cu.cuModuleGetFunction(&function, module, image.lowered_name.c_str()), "cuModuleGetFunction"); !r) return r.error();
    if (auto r =
            cu.check(cu.cuFuncSetAttribute(function, cuda::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, c.shared_bytes), "cuFuncSetAttribute");
        !r)
        return r.error();
    const cuda::CUlaunchConfig config{1, 1, 1, static_cast<unsigned>(c.threads), 1, 1, static_cast<unsigned>(c.shared_bytes), nullptr, nullptr, 0};
    void* arguments[] = {params->data()};
    if (auto r = cu.check(cu.cuLaunchKernelEx(&config, function, arguments, nullptr), "cuLaunchKernelEx"); !r) return r.error();
    if (auto r = cuda::synchronize(nullptr); !r) return r.error();
    Observation o{c.name, image.key, {}};
    for (std::size_t i = 0; i < c.buffers.size(); ++i) {
        if (!c.buffers[i].output) continue;
        const std::size_t before = o.output.size();
        o.output.resize(before + c.buffers[i].bytes.size());
        if (auto r = cuda::download(o.output.data() + before, place.buffers[i], c.buffers[i].bytes.size()); !r) return r.error();
    }
    cu.cuModuleUnload(module);
    return std::vector{o};
}

// To the last element's end: rows may be padded.
std::size_t bytes_of_view(const TensorView& v) {
    std::int64_t last = v.elements() == 0 ? -1 : 0;
    for (std::size_t i = 0; i < static_cast<std::size_t>(v.rank) && last >= 0; ++i) last += (v.shape[i] - 1) * v.strides[i];
    return static_cast<std::size_t>(size_of(v.dtype) * (last + 1));
}

Result<std::vector<Observation>> run_kernel(const Case& c, const std::string& key) {
    Workload workload(c, 1);
    AttentionTensors host = workload.tensors(), device = host;
    Mirror memory;
    for (TensorView* view : {&device.q, &device.k, &device.v, &device.o, &device.lse, &device.cu_seqlens_q, &device.cu_seqlens_k, &device.q_scale,
                             &device.k_scale, &device.v_scale}) {
        if (!view->present()) continue;
        const auto p = memory.add(view->data, bytes_of_view(*view));
        if (!p) return p.error();
        view->data = *p;
    }
    const auto spec = planner::make_launch(workload.plan(), device);
    if (!spec) return spec.error();
    if (auto r = cuda::launch(*spec, nullptr); !r) return r.error();
    if (auto r = cuda::synchronize(nullptr); !r) return r.error();
    for (const auto& [to, from] : {std::pair{&host.o, &device.o}, {&host.lse, &device.lse}})
        if (auto r = cuda::download(to->data, from->data, bytes_of_view(*from)); !r) return r.error();
    return observe(workload, c, key);
}

Result<std::vector<Observation>> run_quantizer(const QuantizeCase& c, const std::string& key) {
    QuantizeWorkload workload(c, 1);
    QuantizeWorkload::Memory& m = workload.poisoned();
    Mirror memory;
    void* at[5] = {};
    std::size_t i = 0;
    const auto add = [&](auto& v) -> Result<void> {
        if (v.empty()) return ++i, Result<void>{};
        const auto p = memory.add(v.data(), v.size() * sizeof(v[0]));
        if (!p) return p.error();
        at[i++] = *p;
        return {};
    };
    for (const auto& r : {add(m.in), add(m.cu), add(m.out), add(m.scale), add(m.mean)})
        if (!r) return r.error();
    const auto launches = workload.launches(at[0], at[1], at[2], at[3], at[4]);
    if (!launches) return launches.error();
    for (const planner::QuantizeLaunch& launch : *launches)
        if (auto r = cuda::launch(launch, nullptr); !r) return r.error();
    if (auto r = cuda::synchronize(nullptr); !r) return r.error();
    const auto fetch = [&](auto& v, const void* from) {
        return v.empty() ? Result<void>{} : cuda::download(v.data(), from, v.size() * sizeof(v[0]));
    };
    for (const auto& r : {fetch(m.out, at[2]), fetch(m.scale, at[3]), fetch(m.mean, at[4])})
        if (!r) return r.error();
    return std::vector{observe(workload, c, key)};
}

Result<std::vector<Observation>> run_widening(const WidenCase& c, const std::string& key) {
    WidenWorkload workload(c);
    WidenWorkload::Memory& m = workload.poisoned();
    const std::size_t bytes = m.k_out.size() * sizeof(m.k_out[0]);
    Mirror memory;
    const auto k = memory.add(m.k.data(), m.k.size()), v = memory.add(m.v.data(), m.v.size());
    const auto k_out = memory.add(m.k_out.data(), bytes), v_out = memory.add(m.v_out.data(), bytes);
    for (const auto* p : {&k, &v, &k_out, &v_out})
        if (!*p) return p->error();
    if (auto r = cuda::launch(workload.launch(*k, *v, *k_out, *v_out), nullptr); !r) return r.error();
    if (auto r = cuda::synchronize(nullptr); !r) return r.error();
    if (auto r = cuda::download(m.k_out.data(), *k_out, bytes); !r) return r.error();
    if (auto r = cuda::download(m.v_out.data(), *v_out, bytes); !r) return r.error();
    return std::vector{observe(workload, c, key)};
}

struct Task {
    std::string name, key;
    bool instruction;
    std::function<Result<std::vector<Observation>>()> run;
};

// Errors: a kernel whose machine code is not carried.
Result<std::vector<Task>> all_tasks(const InstructionKernels& kernels) {
    std::vector<Task> tasks;
    for (const InstructionCase& c : instruction_cases()) {
        const auto image = kernels.find(c.kernel);
        if (image == kernels.end()) return Error{Code::internal, c.kernel, "is not in instructions.bin beside this program: build both again"};
        tasks.push_back({c.name, image->second.key, true, [&c, image] { return run_instruction(c, image->second); }});
    }
    const auto infos = cuda::catalogue();
    for (const Case& c : integer_cases()) {
        const std::string name = planner::kernel_name(planner::kernel_at(c.variant));
        const auto info = std::ranges::find(infos, name, &KernelInfo::name);
        const auto image = kernels.find(name);
        if (info == infos.end() && image == kernels.end())
            return Error{Code::internal, c.name, "is neither in the catalogue nor in instructions.bin"};
        const std::string key = info != infos.end() ? info->key : image->second.key;
        tasks.push_back({c.name, key, false, [c, key] { return run_kernel(c, key); }});
    }
    for (const QuantizeCase& c : quantize_cases()) {
        QuantizeWorkload workload(c, 1);
        const std::string key = key_of(workload, kernels);
        if (key.empty()) return Error{Code::internal, c.name, "has kernels that are not in instructions.bin"};
        tasks.push_back({c.name, key, false, [c, key] { return run_quantizer(c, key); }});
    }
    for (const WidenCase& c : widen_cases()) {
        const std::string key = key_of(c, kernels);
        if (key.empty()) return Error{Code::internal, c.name, "has a kernel that is not in instructions.bin"};
        tasks.push_back({c.name, key, false, [c, key] { return run_widening(c, key); }});
    }
    return tasks;
}

// Kernels that else would be compiled at first use, for cuda::launch; the text lives as long as the program.
void offer(const InstructionKernels& kernels) {
    static std::string blob;
    for (const auto& [name, image] : kernels) {
        KernelInfo info;
        info.name = name;
        info.key = image.key;
        cuda::append_entry(blob, info, cuda::pack(image));
    }
    cuda::add_catalogue(blob);
}

std::string today() {
    const std::time_t now = std::time(nullptr);
    char text[16];
    std::strftime(text, sizeof(text), "%Y-%m-%d", std::gmtime(&now));
    return text;
}

// Where the child is, for its parent: the task, and how many have ended.
struct Progress {
    std::atomic<std::size_t> task, written;
};

void append(const std::string& path, const std::string& bytes) {
    std::ofstream out(path, std::ios::binary | std::ios::app);
    out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    out.flush();
    if (!out) _exit(3);
}

[[noreturn]] void child(const std::vector<Task>& tasks, std::size_t first, const std::string& path, Progress& progress) {
    const auto device = cuda::current_device();
    if (!device || device->sm_major != 9 || device->sm_minor != 0) {
        fmt::print(stderr, "no Hopper GPU to run on: {}\n", device ? device->name : device.error().text());
        _exit(2);
    }
    if (!fs::exists(path)) append(path, raw_header(device->name, cuda::versions().driver, today()));
    for (std::size_t i = first; i < tasks.size(); ++i) {
        progress.task = i;
        const auto outputs = tasks[i].run();
        if (!outputs) {
            fmt::print(stderr, "{}: {}\n", tasks[i].name, outputs.error().text());
            std::fflush(nullptr);
            _exit(1);
        }
        std::string bytes;
        for (const Observation& o : *outputs) bytes += raw_bytes(o);
        append(path, bytes);
        progress.written = progress.written + outputs->size();
    }
    _exit(0);
}

// The child's end: its exit status, or -1 when it hung.
int wait_for(pid_t pid, const Progress& progress, Clock::time_point end) {
    std::size_t seen = progress.task;
    auto since = Clock::now();
    for (;; std::this_thread::sleep_for(std::chrono::milliseconds(5))) {
        int status = 0;
        if (waitpid(pid, &status, WNOHANG) == pid) return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
        const std::size_t now = progress.task;
        if (now != seen) {
            seen = now;
            since = Clock::now();
        }
        if (Clock::now() - since < kPatience && Clock::now() < end) continue;
        kill(pid, SIGKILL);
        waitpid(pid, &status, 0);
        return -1;
    }
}

int run(const std::string& path, const std::string& kernels_path) {
    const InstructionKernels kernels = read_instruction_kernels(kernels_path);
    const auto tasks = all_tasks(kernels);
    offer(kernels);
    if (!tasks) {
        fmt::print(stderr, "{}\n", tasks.error().text());
        return 2;
    }
    fs::remove(path);
    void* shared = mmap(nullptr, sizeof(Progress), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED) return 3;
    auto& progress = *new (shared) Progress{};
    const auto begin = Clock::now(), end = begin + kLongest;
    int failures = 0;
    for (std::size_t first = 0; first < tasks->size();) {
        progress.task = first;
        std::fflush(nullptr);
        const pid_t pid = fork();
        if (pid == 0) child(*tasks, first, path, progress);
        const int status = wait_for(pid, progress, end);
        if (status == 0) break;
        if (status == 2 || status == 3) return status;
        const std::size_t at = progress.task;
        const Task& task = (*tasks)[at];
        // An instruction that the hardware refuses is a result, which the emulator must agree with.
        const bool refused = task.instruction && status == 1 && fs::exists(path);
        fmt::print("{}  {}: {}\n", refused ? "refused" : "FAILED", task.name, status < 0 ? "it hangs" : fmt::format("status {}", status));
        if (refused) append(path, raw_bytes({task.name, task.key, refusal()}));
        if (++failures == kMostFailures || Clock::now() >= end) break;
        first = at + 1;
    }
    fmt::print("{} tasks, {} outputs, {} failures, {:.1f} s\n", tasks->size(), progress.written.load(), failures,
               std::chrono::duration<double>(Clock::now() - begin).count());
    return failures == 0 ? 0 : 1;
}

int import(const std::string& path, const fs::path& evidence) {
    const auto raw = read_raw(path);
    if (!raw) {
        fmt::print(stderr, "{}\n", raw.error().text());
        return 2;
    }
    Record instructions{raw->gpu, raw->driver, raw->date, {}}, kernels = instructions;
    for (const Observation& o : raw->outputs) {
        const bool instruction = std::ranges::any_of(instruction_cases(), [&](const InstructionCase& c) { return c.name == o.name; });
        (instruction ? instructions : kernels).cases[o.name] = entry_of(o);
    }
    fmt::print("{}, {}: {} outputs of instructions, {} of kernels\n", raw->gpu, raw->date, instructions.cases.size(), kernels.cases.size());
    return write_record(evidence / kInstructionRecord, instructions) && write_record(evidence / kKernelRecord, kernels) ? 0 : 2;
}

}  // namespace
}  // namespace hopfill::gpu

int main(int count, char** words) {
    const std::string mode = count > 1 ? words[1] : "";
    if (mode == "--run" && count == 3)
        return hopfill::gpu::run(words[2], (std::filesystem::read_symlink("/proc/self/exe").parent_path() / "instructions.bin").string());
    if (mode == "--import" && count == 4) return hopfill::gpu::import(words[2], words[3]);
    std::fputs("usage: hopfill_gpu_fidelity --run RAW | --import RAW FOLDER\n", stderr);
    return 2;
}
