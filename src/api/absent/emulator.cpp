#include "emulator/backend.h"
namespace hopfill::emulator {
Result<Report> run(const planner::LaunchSpec&, const Options&) { return Error{Code::unavailable, "", "this build has no emulator"}; }
}  // namespace hopfill::emulator
