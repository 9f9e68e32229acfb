// What a kernel's key is made of, on real machine code: names and comments keep it, code moves it.
#include <gmock/gmock.h>

#include <list>

#include "cuda/compile.h"
#include "cuda/elf.h"
#include "plan/launch.h"

namespace hopfill::cuda {
namespace {

// The planner's first kernel, compiled from headers that `edit` may change.
template <class Edit>
Result<std::string> key_after(const Edit& edit) {
    const auto compiler = nvrtc();
    if (!compiler) return compiler.error();
    auto program = program_for(planner::kernel_table().front());
    if (!program) return program.error();
    std::list<std::string> texts;
    for (Source& s : program->headers) {
        texts.emplace_back(s.text);
        edit(std::string_view(s.name), texts.back());
        s.text = texts.back().c_str();
    }
    edit("expression", program->name_expression);
    const auto output = (*compiler)->compile(*program);
    if (!output) return output.error();
    return kernel_key(output->cubin);
}

void replace_all(std::string& text, std::string_view from, std::string_view to) {
    for (std::size_t at = text.find(from); at != std::string::npos; at = text.find(from, at + to.size())) text.replace(at, from.size(), to);
}

TEST(KernelKey, MovesWithCodeAlone) {
    const auto same = key_after([](std::string_view, std::string&) {});
    ASSERT_TRUE(same) << same.error().text();

    const auto commented = key_after([](std::string_view name, std::string& text) {
        if (name != "expression") text = "// A comment.\n\n" + text;
    });
    ASSERT_TRUE(commented) << commented.error().text();
    EXPECT_EQ(*commented, *same) << "a comment";

    const auto renamed = key_after([](std::string_view, std::string& text) {
        replace_all(text, "prefill_kernel", "some_other_kernel");
        replace_all(text, "KernelConfig", "ConfigOfAKernel");
    });
    ASSERT_TRUE(renamed) << renamed.error().text();
    EXPECT_EQ(*renamed, *same) << "a renaming";

    const auto wider = key_after([](std::string_view name, std::string& text) {
        if (name == "plan/kernel_config.h")
            replace_all(text, "    constexpr bool operator==", "    i32 new_field = 7;\n    constexpr bool operator==");
    });
    ASSERT_TRUE(wider) << wider.error().text();
    EXPECT_EQ(*wider, *same) << "a new field of KernelConfig";

    const auto changed = key_after([](std::string_view name, std::string& text) {
        if (name == "sm90/math.cuh") replace_all(text, "ex2.approx.ftz.f32", "ex2.approx.f32");
    });
    ASSERT_TRUE(changed) << changed.error().text();
    EXPECT_NE(*changed, *same) << "another instruction";
}

}  // namespace
}  // namespace hopfill::cuda
