// Printed names of kernels.
#include <fmt/format.h>

#include "plan/geometry.h"
#include "plan/launch.h"

namespace hopfill {
namespace {

const char* text(Elem e) {
    switch (e) {
        case Elem::bf16: return "bf16";
        case Elem::f16: return "f16";
        case Elem::e4m3: return "e4m3";
        case Elem::f32: return "f32";
    }
    return "?";
}
const char* text(Mask m) { return m == Mask::causal ? "causal" : "full"; }
const char* text(Family f) {
    switch (f) {
        case Family::prefill: return "prefill";
        case Family::prefill_short: return "prefill_short";
        case Family::prefill_folded: return "prefill_folded";
        case Family::prefill_fp8: return "prefill_fp8";
        case Family::prefill_fp8_folded: return "prefill_fp8_folded";
        case Family::prefill_mixed: return "prefill_mixed";
        case Family::prefill_widened: break;
    }
    return "prefill_widened";
}

}  // namespace

namespace planner {

std::string kernel_name(const KernelConfig& c) {
    return fmt::format("{}_{}{}_hd{}_{}{}_m{}n{}s{}{}{}{}{}{}{}{}", text(c.family), text(c.elem),
                       c.out == c.elem ? "" : fmt::format("_o{}", text(c.out)), c.head_dim, text(c.mask), c.packed ? "_packed" : "",
                       geometry(c).tile_m, c.tile_n, c.stages, c.pingpong ? "_pp" : "", c.dynamic ? "_dyn" : "",
                       c.scale_block != 0 ? fmt::format("_b{}", c.scale_block) : "", c.v_transposed ? "_vt" : "",
                       c.ahead ? "_ahead" : "", c.v_turned ? "_turned" : "", c.splits ? "_split" : "");
}

std::string kernel_expression(const KernelConfig& c) {
    return fmt::format(
        "hopfill::KernelConfig{{hopfill::Family::{}, hopfill::Elem::{}, hopfill::Elem::{}, hopfill::Mask::{}, {}, {}, {}, {}, {}, {}, {}, "
        "{}, {}, {}, {}, {}}}",
        text(c.family), text(c.elem), text(c.out), text(c.mask), c.head_dim, c.tile_n, c.stages, c.consumers, c.packed, c.dynamic, c.pingpong,
        c.scale_block, c.v_transposed, c.ahead, c.v_turned, c.splits);
}

}  // namespace planner

}  // namespace hopfill
