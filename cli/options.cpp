#include "options.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <map>

namespace hopfill::cli {

Status status_of(const Error& error) {
    switch (error.code) {
        case Code::invalid_argument:
        case Code::unsupported:
        case Code::unavailable:
        case Code::io:
            return bad_input;
        case Code::device:
        case Code::internal:
            break;
    }
    return internal_fault;
}

Status report(const Error& error) {
    std::string text = error.text();
    if (status_of(error) == bad_input) std::replace(text.begin(), text.end(), '\n', ' ');
    fmt::print(stderr, "hopfill: {}\n", text);
    return status_of(error);
}

void add_backend_option(CLI::App& command, Backend& backend, const std::vector<Backend>& allowed) {
    std::map<std::string, Backend> names;
    for (const Backend b : allowed) names.emplace(name_of(b), b);
    command.add_option("--backend", backend, "Where to compute")->transform(CLI::CheckedTransformer(names).description(""))->type_name("NAME");
}

void add_dtype_option(CLI::App& command, const std::string& name, std::optional<DType>& dtype, const std::string& help) {
    std::map<std::string, DType> names;
    for (const DType t : {DType::f32, DType::f16, DType::bf16, DType::e4m3}) names.emplace(name_of(t), t);
    command
        .add_option_function<std::string>(
            name, [&dtype, names](const std::string& text) { dtype = names.at(text); }, help)
        ->check(CLI::IsMember(names))
        ->type_name("f32|f16|bf16|e4m3");
}

Backend resolve(Backend backend) {
    if (backend != Backend::automatic) return backend;
    const Result<DeviceInfo> device = current_device();
    return device && device->sm_major == 9 && device->sm_minor == 0 ? Backend::sm90 : Backend::cpu;
}

}  // namespace hopfill::cli
