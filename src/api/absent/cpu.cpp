#include "cpu/backend.h"
namespace hopfill::cpu {
Result<void> attention(const AttentionProblem&, const AttentionTensors&) { return Error{Code::unavailable, "", "this build has no cpu backend"}; }
}  // namespace hopfill::cpu
