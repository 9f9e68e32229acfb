// Hopfill: prefill attention for NVIDIA Hopper. Include this for everything but the checking library (hopfill/check.h).
#pragma once

#include "hopfill/attention.h"
#include "hopfill/device.h"
#include "hopfill/emulate.h"
#include "hopfill/info.h"
#include "hopfill/quantize.h"
#include "hopfill/result.h"
#include "hopfill/tensor.h"
#include "hopfill/timing.h"
