#include "arrays.h"

#include <nanobind/stl/string.h>

#include <array>
#include <string_view>
#include <vector>

#include "errors.h"

namespace nb = nanobind;

namespace hopfill::python {
namespace {

/// sys.modules[name], or null: a framework that is not loaded cannot own an argument.
PyObject* loaded_module(const char* name) {
    PyObject* modules = PyImport_GetModuleDict();
    return PyDict_GetItemString(modules, name);
}

PyObject* call_one(PyObject* function, PyObject* argument) { return PyObject_Vectorcall(function, &argument, 1, nullptr); }

/// An attribute of torch, looked up once and kept for the life of the process.
nb::handle torch_attribute(PyObject*& cache, const char* name) {
    if (!cache) {
        cache = PyObject_GetAttrString(loaded_module("torch"), name);
        if (!cache) throw nb::python_error();
    }
    return cache;
}

bool instance_of(nb::handle object, const char* module, const char* type) {
    PyObject* m = loaded_module(module);
    if (!m) return false;
    nb::object t = nb::steal(PyObject_GetAttrString(m, type));
    if (!t.is_valid()) {  // a half-imported module
        PyErr_Clear();
        return false;
    }
    return PyObject_IsInstance(object.ptr(), t.ptr()) == 1;
}

const dl::ExchangeApi* exchange_api(PyTypeObject* type) {
    nb::object capsule = nb::steal(PyObject_GetAttrString(reinterpret_cast<PyObject*>(type), "__dlpack_c_exchange_api__"));
    if (!capsule.is_valid() || !PyCapsule_IsValid(capsule.ptr(), "dlpack_exchange_api")) {
        PyErr_Clear();
        return nullptr;
    }
    const auto* api = static_cast<const dl::ExchangeApi*>(PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
    while (api && api->version.major > 1) api = api->previous;
    return api && api->version.major == 1 && api->tensor_from_object ? api : nullptr;
}

std::string python_type(nb::handle object) { return nb::cast<std::string>(nb::str(reinterpret_cast<PyObject*>(Py_TYPE(object.ptr())))); }

constexpr const char* allowed_dtypes = "allowed: float32, float16, bfloat16, float8_e4m3fn (q, k, v, out), float32 (scales), int32 (cu_seqlens)";

DType dtype_of(dl::DataType t, const char* name) {
    if (t.lanes == 1) {
        if (t.code == dl::code_float && t.bits == 32) return DType::f32;
        if (t.code == dl::code_float && t.bits == 16) return DType::f16;
        if (t.code == dl::code_bfloat && t.bits == 16) return DType::bf16;
        if (t.code == dl::code_float8_e4m3fn && t.bits == 8) return DType::e4m3;
        if (t.code == dl::code_int && t.bits == 32) return DType::i32;
    }
    const char* kind = t.code == dl::code_float ? "float" : t.code == dl::code_int ? "int" : t.code == dl::code_bfloat ? "bfloat" : nullptr;
    fail(Code::unsupported, name,
         "dtype " +
             (kind ? kind + std::to_string(t.bits) : "of DLPack code " + std::to_string(t.code) + " with " + std::to_string(t.bits) + " bits") +
             "; " + allowed_dtypes);
}

void set_rank(TensorView& view, std::int64_t rank, const char* name) {
    if (rank < 1 || rank > 4) fail(Code::invalid_argument, name, std::to_string(rank) + " dimensions; allowed: 1 to 4");
    view.rank = static_cast<int>(rank);
}

// `bytes_are`: what the bytes of an array of uint8 are, where that is known.
void view_dlpack(TensorView& view, const dl::Tensor& t, const char* name, std::optional<DType> bytes_are = {}) {
    set_rank(view, t.ndim, name);
    view.dtype = bytes_are ? *bytes_are : dtype_of(t.dtype, name);
    view.data = static_cast<char*>(t.data) + t.byte_offset;
    switch (t.device.type) {
        case dl::cpu:
        case dl::cuda_host:
            view.device = {Device::Kind::cpu, 0};
            break;
        case dl::cuda:
        case dl::cuda_managed:
            view.device = {Device::Kind::cuda, t.device.id};
            break;
        default:
            fail(Code::unsupported, name, "on a device of DLPack type " + std::to_string(t.device.type) + "; allowed: the CPU and CUDA devices");
    }
    const auto rank = static_cast<std::size_t>(view.rank);
    for (std::size_t i = 0; i < rank; ++i) view.shape[i] = t.shape[i];
    if (t.strides) {
        for (std::size_t i = 0; i < rank; ++i) view.strides[i] = t.strides[i];
    } else {
        std::int64_t stride = 1;
        for (std::size_t i = rank; i > 0; --i) {
            view.strides[i - 1] = stride;
            stride *= view.shape[i - 1];
        }
    }
}

void view_capsule(Array& array, nb::object capsule, const char* name, std::optional<DType> bytes_are = {}) {
    if (PyCapsule_IsValid(capsule.ptr(), "dltensor_versioned")) {
        const auto* m = static_cast<dl::ManagedTensorVersioned*>(PyCapsule_GetPointer(capsule.ptr(), "dltensor_versioned"));
        if (m->version.major != 1) fail(Code::unsupported, name, "DLPack version " + std::to_string(m->version.major) + "; allowed: 1");
        array.read_only = (m->flags & dl::flag_read_only) != 0;
        view_dlpack(array.view, m->tensor, name, bytes_are);
    } else if (PyCapsule_IsValid(capsule.ptr(), "dltensor")) {
        view_dlpack(array.view, static_cast<dl::ManagedTensor*>(PyCapsule_GetPointer(capsule.ptr(), "dltensor"))->tensor, name, bytes_are);
    } else {
        fail(Code::invalid_argument, name, "__dlpack__ returned no DLPack capsule");
    }
    array.keep = std::move(capsule);  // not consumed: its destructor releases the memory when the call is over
}

std::optional<DType> dtype_from_name(std::string_view name) {
    if (name.starts_with("torch.")) name.remove_prefix(6);
    if (name == "float32" || name == "f32") return DType::f32;
    if (name == "float16" || name == "f16" || name == "half") return DType::f16;
    if (name == "bfloat16" || name == "bf16") return DType::bf16;
    if (name == "float8_e4m3fn" || name == "e4m3") return DType::e4m3;
    if (name == "int32" || name == "i32") return DType::i32;
    return std::nullopt;
}

Array view_numpy(nb::handle object, const char* name) {
    Array array;
    const nb::object dtype = object.attr("dtype");
    const auto dtype_name = nb::cast<std::string>(dtype.attr("name"));
    const auto type = dtype_from_name(dtype_name);
    if (!type) fail(Code::unsupported, name, "dtype " + dtype_name + "; " + allowed_dtypes);
    if (!nb::cast<bool>(dtype.attr("isnative"))) fail(Code::unsupported, name, "not in this machine's byte order");
    array.view.dtype = *type;
    const auto shape = nb::cast<nb::tuple>(object.attr("shape")), strides = nb::cast<nb::tuple>(object.attr("strides"));
    set_rank(array.view, static_cast<std::int64_t>(nb::len(shape)), name);
    for (std::size_t i = 0; i < nb::len(shape); ++i) {
        const auto bytes = nb::cast<std::int64_t>(strides[i]);
        if (bytes % size_of(*type) != 0) {
            fail(Code::unsupported, std::string(name) + ".strides[" + std::to_string(i) + "]",
                 std::to_string(bytes) + " bytes; allowed: whole elements");
        }
        array.view.shape[i] = nb::cast<std::int64_t>(shape[i]);
        array.view.strides[i] = bytes / size_of(*type);
    }
    const auto data = nb::cast<nb::tuple>(object.attr("__array_interface__")["data"]);
    array.view.data = reinterpret_cast<void*>(nb::cast<std::uintptr_t>(data[0]));
    array.read_only = nb::cast<bool>(data[1]);
    return array;
}

// Older PyTorch gives out no DLPack of float8 tensors: they go as the bytes that they are.
bool is_torch_e4m3(nb::handle object) {
    static PyObject* dtype_name = PyUnicode_InternFromString("dtype");
    static PyObject* e4m3 = nullptr;
    if (!e4m3) {
        e4m3 = PyObject_GetAttrString(loaded_module("torch"), "float8_e4m3fn");
        if (!e4m3) {  // a PyTorch older than the type
            PyErr_Clear();
            e4m3 = nb::none().release().ptr();
        }
    }
    const nb::object dtype = nb::steal(PyObject_GetAttr(object.ptr(), dtype_name));
    if (!dtype.is_valid()) throw nb::python_error();
    return dtype.ptr() == e4m3;
}

Array view_torch(nb::handle object, const char* name, std::optional<DType> bytes_are) {
    static PyObject* to_dlpack = nullptr;
    Array array;
    if (!to_dlpack) {
        nb::object c = nb::borrow(torch_attribute(to_dlpack, "_C"));
        Py_CLEAR(to_dlpack);
        to_dlpack = PyObject_GetAttrString(c.ptr(), "_to_dlpack");
        if (!to_dlpack) throw nb::python_error();
    }
    view_capsule(array, nb::steal(call_one(to_dlpack, object.ptr())), name, bytes_are);
    return array;
}

Array view_other(nb::handle object, const char* name) {
    Array array;
    const auto device = nb::cast<nb::tuple>(object.attr("__dlpack_device__")());
    const bool cuda = nb::cast<int>(device[0]) == dl::cuda || nb::cast<int>(device[0]) == dl::cuda_managed;
    const nb::object method = object.attr("__dlpack__");
    const nb::object stream = cuda ? nb::object(nb::int_(1)) : nb::object(nb::none());  // 1: ordered before work on the legacy default stream
    try {
        view_capsule(array, nb::object(method(nb::arg("stream") = stream, nb::arg("max_version") = nb::make_tuple(1, 0))), name);
    } catch (nb::python_error& error) {
        if (!error.matches(PyExc_TypeError)) throw;
        view_capsule(array, nb::object(method(nb::arg("stream") = stream)), name);  // before DLPack 1.0
    }
    return array;
}

}  // namespace

const TypeEntry& entry_of(nb::handle object) {
    struct Known {
        PyTypeObject* type;
        TypeEntry entry;
    };
    static std::vector<Known> known;  // under the GIL; types are kept alive so that an address never means another type
    PyTypeObject* type = Py_TYPE(object.ptr());
    for (const Known& k : known) {
        if (k.type == type) return k.entry;
    }
    TypeEntry entry;
    if (instance_of(object, "torch", "Tensor")) {
        entry.framework = Framework::torch;
        entry.exchange = exchange_api(type);
    } else if (instance_of(object, "numpy", "ndarray")) {
        entry.framework = Framework::numpy;
    } else {
        entry.exchange = exchange_api(type);
    }
    if (known.capacity() == 0) known.reserve(64);  // entries are returned by reference: never moved
    if (known.size() == known.capacity()) {
        static TypeEntry overflow;
        return overflow = entry;
    }
    Py_INCREF(reinterpret_cast<PyObject*>(type));
    known.push_back({type, entry});
    return known.back().entry;
}

Array view_of(nb::handle object, const TypeEntry& entry, const char* name) {
    const TypeEntry& own = entry_of(object);
    if (own.framework != entry.framework) {
        const char* wanted = entry.framework == Framework::torch   ? "a torch.Tensor"
                             : entry.framework == Framework::numpy ? "a numpy.ndarray"
                                                                   : "an array with __dlpack__";
        throw nb::type_error((std::string(name) + ": expected " + wanted + ", like q; got " + python_type(object)).c_str());
    }
    // Of a float8 tensor the exchange tells in PyTorch 2.11 at least (a view as bytes takes 0.8 us), and of any other in every version that has one.
    if (own.exchange) {
        Array array;
        dl::Tensor t;
        if (own.exchange->tensor_from_object(object.ptr(), &t) == 0) {
            view_dlpack(array.view, t, name);
            return array;  // the memory is that of the argument, which the caller holds
        }
        nb::python_error error;
        if (own.framework != Framework::torch || !is_torch_e4m3(object)) throw error;
    }
    if (own.framework == Framework::torch && is_torch_e4m3(object)) {
        static PyObject* uint8 = nullptr;
        const nb::object bytes = object.attr("view")(torch_attribute(uint8, "uint8"));
        if (!own.exchange) return view_torch(bytes, name, DType::e4m3);
        Array array;
        dl::Tensor t;
        if (own.exchange->tensor_from_object(bytes.ptr(), &t) != 0) throw nb::python_error();
        view_dlpack(array.view, t, name, DType::e4m3);
        return array;
    }
    if (own.framework == Framework::numpy) return view_numpy(object, name);
    if (own.framework == Framework::torch) return view_torch(object, name, {});
    if (!nb::hasattr(object, "__dlpack__")) {
        throw nb::type_error(
            (std::string(name) + ": expected a numpy.ndarray, a torch.Tensor or an array with __dlpack__; got " + python_type(object)).c_str());
    }
    return view_other(object, name);
}

namespace {

constexpr std::array<const char*, 5> kDTypeNames{"float32", "float16", "bfloat16", "float8_e4m3fn", "int32"};

nb::handle torch_dtype(DType dtype) {
    static PyObject* cache[5] = {};
    const auto index = static_cast<std::size_t>(dtype);
    return torch_attribute(cache[index], kDTypeNames[index]);
}

nb::object numpy_dtype(DType dtype, const char* argument) {
    const char* name = kDTypeNames[static_cast<std::size_t>(dtype)];
    if (dtype != DType::bf16 && dtype != DType::e4m3) return nb::str(name);
    PyObject* ml = loaded_module("ml_dtypes");
    if (!ml) fail(Code::unavailable, argument, std::string(name) + " in NumPy needs the package ml_dtypes: import it first, or give `out`");
    return nb::handle(ml).attr(name);
}

}  // namespace

nb::object empty_like(nb::handle like, const TypeEntry& entry, DType dtype, DType like_dtype) {
    static PyObject* torch_empty_like = nullptr;
    if (entry.framework == Framework::torch) {
        const nb::handle f = torch_attribute(torch_empty_like, "empty_like");
        if (dtype == like_dtype) {
            nb::object o = nb::steal(call_one(f.ptr(), like.ptr()));
            if (!o.is_valid()) throw nb::python_error();
            return o;
        }
        return f(like, nb::arg("dtype") = torch_dtype(dtype));
    }
    if (entry.framework == Framework::numpy) {
        const nb::handle numpy = loaded_module("numpy");
        if (dtype == like_dtype) return numpy.attr("empty")(like.attr("shape"), like.attr("dtype"));
        return numpy.attr("empty")(like.attr("shape"), numpy_dtype(dtype, "out_dtype"));
    }
    throw nb::type_error(
        ("out: required for arrays of type " + python_type(like) + "; without it outputs are made for NumPy and PyTorch only").c_str());
}

nb::object empty(nb::handle like, const TypeEntry& entry, nb::tuple shape, DType dtype, const char* argument) {
    static PyObject* torch_empty = nullptr;
    if (entry.framework == Framework::torch) {
        return torch_attribute(torch_empty, "empty")(shape, nb::arg("dtype") = torch_dtype(dtype), nb::arg("device") = like.attr("device"));
    }
    if (entry.framework == Framework::numpy) return nb::handle(loaded_module("numpy")).attr("empty")(shape, numpy_dtype(dtype, argument));
    throw nb::type_error(
        (std::string(argument) + ": not available for arrays of type " + python_type(like) + "; allowed: NumPy and PyTorch").c_str());
}

DType dtype_from(nb::handle object, const char* name) {
    std::string text;
    if (nb::isinstance<nb::str>(object)) {
        text = nb::cast<std::string>(object);
    } else if (nb::hasattr(object, "name")) {  // numpy.dtype
        text = nb::cast<std::string>(nb::str(object.attr("name")));
    } else if (nb::hasattr(object, "__name__")) {  // numpy.float16 and ml_dtypes.bfloat16, which are types
        text = nb::cast<std::string>(nb::str(object.attr("__name__")));
    } else {
        text = nb::cast<std::string>(nb::str(object));  // torch.dtype prints as torch.bfloat16
    }
    if (const auto dtype = dtype_from_name(text)) return *dtype;
    fail(Code::invalid_argument, name, "'" + text + "'; allowed: float32, float16, bfloat16, float8_e4m3fn, or a dtype of NumPy or PyTorch");
}

Stream stream_from(nb::handle object) {
    nb::object value = nb::borrow(object);
    if (nb::hasattr(object, "__cuda_stream__")) {
        const nb::object protocol = object.attr("__cuda_stream__");
        value = nb::object((PyCallable_Check(protocol.ptr()) ? nb::object(protocol()) : protocol)[1]);
    } else if (nb::hasattr(object, "cuda_stream")) {
        value = object.attr("cuda_stream");
    } else if (nb::hasattr(object, "ptr")) {
        value = object.attr("ptr");
    }
    std::uintptr_t handle = 0;
    if (!nb::try_cast(value, handle)) {
        throw nb::type_error(("stream: expected an int (cudaStream_t) or a stream of PyTorch or CuPy; got " + python_type(object)).c_str());
    }
    return reinterpret_cast<Stream>(handle);
}

Stream current_stream(const TypeEntry& entry, const TensorView& view) {
    if (view.device.kind != Device::Kind::cuda) return nullptr;
    if (entry.exchange) {
        void* stream = nullptr;
        if (entry.exchange->current_stream(dl::cuda, view.device.index, &stream) != 0) throw nb::python_error();
        return stream;
    }
    if (entry.framework != Framework::torch) return nullptr;
    static PyObject* cuda = nullptr;
    return stream_from(torch_attribute(cuda, "cuda").attr("current_stream")(view.device.index));
}

void refuse_gradients(const TypeEntry& entry, std::initializer_list<nb::handle> tensors) {
    if (entry.framework != Framework::torch) return;
    static PyObject* is_grad_enabled = nullptr;
    static PyObject* requires_grad = PyUnicode_InternFromString("requires_grad");
    nb::object enabled = nb::steal(PyObject_CallNoArgs(torch_attribute(is_grad_enabled, "is_grad_enabled").ptr()));
    if (!enabled.is_valid()) throw nb::python_error();
    if (enabled.ptr() != Py_True) return;
    const char* names[] = {"q", "k", "v", "q_scale", "k_scale", "v_scale"};
    std::size_t i = 0;
    for (nb::handle t : tensors) {
        if (t.is_none()) {
            ++i;
            continue;
        }
        nb::object flag = nb::steal(PyObject_GetAttr(t.ptr(), requires_grad));
        if (!flag.is_valid()) throw nb::python_error();
        if (flag.ptr() == Py_True)
            fail(Code::unsupported, names[i], "requires_grad is set, and there is no backward pass; allowed: under torch.no_grad(), or detached");
        ++i;
    }
}

}  // namespace hopfill::python
