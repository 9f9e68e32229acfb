// What every problem must hold, whoever made it.
#pragma once

#include "hopfill/attention.h"

namespace hopfill {

Result<void> validate(const AttentionProblem& problem);

}  // namespace hopfill
