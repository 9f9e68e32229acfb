// How long a kernel takes: what choose() compares.
#pragma once

#include "hopfill/attention.h"
#include "plan/kernel_config.h"
#include "plan/launch.h"

namespace hopfill::planner {

struct Modelled {
    double us = 0;
    Split split;  // of a kernel that splits jobs: those that it takes so long with
};

/// Microseconds that a kernel takes for a problem, launch included, and how it splits jobs: on an H200 within 10% of every measurement in
/// bench/results (a test holds it to that). Elsewhere its times scale with the number of multiprocessors alone; what choose() needs is their order.
/// Lengths of ragged sequences are not known to a plan: all are taken to be as long as their mean.
Modelled model(const KernelConfig& config, const AttentionProblem& problem, const DeviceInfo& device);
double modelled_us(const KernelConfig& config, const AttentionProblem& problem, const DeviceInfo& device);

}  // namespace hopfill::planner
