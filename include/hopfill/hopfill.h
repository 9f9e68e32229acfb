// Hopfill: prefill attention for NVIDIA Hopper. Include this for everything.
#pragma once

#include "hopfill/attention.h"
#include "hopfill/info.h"
#include "hopfill/result.h"
#include "hopfill/tensor.h"
