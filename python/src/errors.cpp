#include "errors.h"

#include <array>

namespace nb = nanobind;

namespace hopfill::python {
namespace {

// Indexed by Code. References are kept for the life of the process: an exception may be raised while the module is being torn down.
std::array<PyObject*, 6> types{};

/// The C++ API says max_seqlen_kv where Python, like the packages that people come from, says max_seqlen_k.
std::string python_name(const std::string& argument) { return argument == "max_seqlen_kv" ? "max_seqlen_k" : argument; }

void raise(const Error& error) {
    const Error renamed{error.code, python_name(error.argument), error.message};
    PyObject* type = types[static_cast<std::size_t>(error.code)];
    nb::object exception = nb::steal(PyObject_CallFunction(type, "s", renamed.text().c_str()));
    if (!exception.is_valid()) return;
    nb::setattr(exception, "argument", nb::str(renamed.argument.c_str()));
    PyErr_SetObject(type, exception.ptr());
}

PyObject* define(nb::module_& m, const char* name, const char* doc, PyObject* base, PyObject* builtin) {
    const std::string qualified = std::string("hopfill.") + name;
    nb::object bases = builtin ? nb::object(nb::make_tuple(nb::handle(base), nb::handle(builtin))) : nb::borrow(base);
    PyObject* type = PyErr_NewExceptionWithDoc(qualified.c_str(), doc, bases.ptr(), nullptr);
    if (!type) throw nb::python_error();
    m.attr(name) = nb::borrow(type);
    return type;
}

}  // namespace

void register_errors(nb::module_& m) {
    PyObject* base =
        define(m, "Error", "Base class of what Hopfill raises. `argument` names the argument at fault, or is ''.", PyExc_Exception, nullptr);
    nb::setattr(base, "argument", nb::str(""));
    auto at = [](Code code) -> PyObject*& { return types[static_cast<std::size_t>(code)]; };
    at(Code::invalid_argument) =
        define(m, "InvalidArgumentError", "An argument contradicts itself, another one, or its documented range.", base, PyExc_ValueError);
    at(Code::unsupported) = define(m, "UnsupportedError", "Well-formed, but no kernel here computes it.", base, PyExc_ValueError);
    at(Code::unavailable) =
        define(m, "UnavailableError", "The backend asked for is not present: no GPU, no driver or no NVRTC.", base, PyExc_RuntimeError);
    at(Code::device) = define(m, "DeviceError", "The CUDA driver reported an error.", base, PyExc_RuntimeError);
    at(Code::io) = define(m, "FileError", "A file could not be read or written.", base, PyExc_OSError);
    at(Code::internal) = define(m, "InternalError", "A fault in Hopfill: please report it.", base, PyExc_RuntimeError);

    nb::register_exception_translator([](const std::exception_ptr& pointer, void*) {
        try {
            std::rethrow_exception(pointer);
        } catch (const Failure& failure) {
            raise(failure.error);
        }
    });
}

}  // namespace hopfill::python
