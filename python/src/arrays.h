// Python arrays as TensorViews: NumPy by its attributes, PyTorch and others by DLPack. Nothing here imports a framework: a tensor that exists has
// imported its own.
#pragma once

#include <nanobind/nanobind.h>

#include <optional>
#include <string>

#include "dlpack_abi.h"
#include "hopfill/attention.h"

namespace hopfill::python {

enum class Framework : std::uint8_t { numpy, torch, other };

/// What is known of a Python type, looked up once a type.
struct TypeEntry {
    Framework framework = Framework::other;
    const dl::ExchangeApi* exchange = nullptr;  ///< present where the framework offers the C exchange (PyTorch from 2.10 on)
};
const TypeEntry& entry_of(nanobind::handle object);

/// A view of an array, with what keeps its memory alive during the call.
struct Array {
    TensorView view;
    bool read_only = false;
    nanobind::object keep;
};

/// Views `object`, which must belong to the same framework as `entry` (that of q). `name` is for errors.
Array view_of(nanobind::handle object, const TypeEntry& entry, const char* name);

/// An uninitialised array as `like` (shape, memory order, device) with dtype `dtype`.
nanobind::object empty_like(nanobind::handle like, const TypeEntry& entry, DType dtype, DType like_dtype);

/// An uninitialised contiguous array on the device of `like`. `argument` is for errors.
nanobind::object empty(nanobind::handle like, const TypeEntry& entry, nanobind::tuple shape, DType dtype, const char* argument);

/// A dtype argument: "bf16", "bfloat16", torch.bfloat16, numpy.float16, ...
DType dtype_from(nanobind::handle object, const char* name);

/// A stream argument: an int, or an object with __cuda_stream__, cuda_stream (PyTorch) or ptr (CuPy).
Stream stream_from(nanobind::handle object);

/// The framework's current stream on the array's device; null (the default stream) on the host and for frameworks that have none.
Stream current_stream(const TypeEntry& entry, const TensorView& view);

/// Refuses tensors that autograd follows: there is no backward pass, and results without a gradient would be wrong silently.
void refuse_gradients(const TypeEntry& entry, std::initializer_list<nanobind::handle> tensors);

}  // namespace hopfill::python
