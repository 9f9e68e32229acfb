// Every device header is complete: it compiles alone, for NVRTC, which has no standard library and no CUDA header.
#include <gmock/gmock.h>

#include "cuda/compile.h"

namespace hopfill::cuda {
namespace {

class DeviceHeader : public testing::TestWithParam<std::string> {};

TEST_P(DeviceHeader, CompilesAlone) {
    const auto compiler = nvrtc();
    ASSERT_TRUE(compiler) << compiler.error().text();
    auto headers = include_closure(GetParam());
    ASSERT_TRUE(headers) << headers.error().text();
    const auto output = (*compiler)->compile({"#include \"" + GetParam() + "\"\n", *headers, compile_options(), ""});
    ASSERT_TRUE(output) << output.error().text();
    EXPECT_THAT(output->log, testing::Not(testing::HasSubstr("warning")));
}

std::vector<std::string> device_headers() {
    std::vector<std::string> names;
    for (const Source& s : sources()) {
        const std::string_view name = s.name;
        // Of plan/, what kernels include; the rest is for the host.
        if (name.ends_with(".cuh")) {
            names.emplace_back(name);
        } else {
            for (const Source& kernel : sources()) {
                if (!std::string_view(kernel.name).ends_with("kernel.cuh")) continue;
                const auto closure = include_closure(kernel.name);
                if (closure && std::ranges::any_of(*closure, [&](const Source& c) { return name == c.name; })) {
                    names.emplace_back(name);
                    break;
                }
            }
        }
    }
    return names;
}

INSTANTIATE_TEST_SUITE_P(All, DeviceHeader, testing::ValuesIn(device_headers()), [](const auto& info) {
    std::string name = info.param;
    for (char& c : name)
        if (std::isalnum(static_cast<unsigned char>(c)) == 0) c = '_';
    return name;
});

}  // namespace
}  // namespace hopfill::cuda
