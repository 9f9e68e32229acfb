// How long a plan takes.
#pragma once

#include "hopfill/attention.h"

namespace hopfill {

struct Timing {
    double us = 0;         ///< median over rounds of one run's time on its backend
    double us_spread = 0;  ///< slowest round less the fastest
    double host_us = 0;    ///< median time that run() keeps the calling thread; equals us on host backends
};

/// Times run(plan, tensors). On sm90: replays of a CUDA graph of up to 40 launches but at most 10 ms. On the host: single runs.
/// Errors: as run(); invalid_argument when rounds is not positive.
Result<Timing> time(const Plan& plan, const AttentionTensors& tensors, int rounds = 5);

/// Floating-point operations that a dense problem counts as: 4 batch heads max_seqlen_q max_seqlen_kv head_dim, halved when causal.
double flops(const AttentionProblem& problem);

}  // namespace hopfill
