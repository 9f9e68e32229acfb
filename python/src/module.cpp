// The extension hopfill._core: parses Python arguments into TensorViews and calls the C++ API. Everything that decides or computes is behind
// include/hopfill.
#include <nanobind/nanobind.h>
#include <nanobind/operators.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>

#include <cmath>
#include <string_view>

#include "arrays.h"
#include "docs.h"
#include "errors.h"
#include "hopfill/hopfill.h"
#include "quantize.h"

namespace nb = nanobind;

namespace hopfill::python {
namespace {

/// The arguments that attention() and plan() share, as the C++ API wants them.
struct Call {
    const TypeEntry* entry = nullptr;
    AttentionTensors tensors;
    AttentionOptions options;
    nb::object out, lse;
    std::array<nb::object, 9> keep;

    Call(nb::handle q, nb::handle k, nb::handle v, bool causal, nb::handle scale, nb::handle cu_seqlens_q, nb::handle cu_seqlens_k,
         std::optional<std::int64_t> max_seqlen_q, std::optional<std::int64_t> max_seqlen_k, nb::handle out_argument, nb::handle out_dtype,
         bool return_lse, nb::handle q_scale, nb::handle k_scale, nb::handle v_scale, std::optional<std::int64_t> scale_block, bool v_transposed,
         std::optional<std::int64_t> max_scratch_bytes, std::string_view backend)
        : entry(&entry_of(q)) {
        std::size_t kept = 0;
        auto take = [&](TensorView& view, nb::handle object, const char* name) {
            Array array = view_of(object, *entry, name);
            view = array.view;
            keep[kept++] = std::move(array.keep);
            return array.read_only;
        };
        take(tensors.q, q, "q");
        take(tensors.k, k, "k");
        take(tensors.v, v, "v");
        if (!cu_seqlens_q.is_none()) take(tensors.cu_seqlens_q, cu_seqlens_q, "cu_seqlens_q");
        if (!cu_seqlens_k.is_none()) take(tensors.cu_seqlens_k, cu_seqlens_k, "cu_seqlens_k");
        if (!q_scale.is_none()) take(tensors.q_scale, q_scale, "q_scale");
        if (!k_scale.is_none()) take(tensors.k_scale, k_scale, "k_scale");
        if (!v_scale.is_none()) take(tensors.v_scale, v_scale, "v_scale");
        refuse_gradients(*entry, {q, k, v, q_scale, k_scale, v_scale});

        options.causal = causal;
        if (!scale.is_none()) options.scale = number(scale, "scale");
        options.max_seqlen_q = max_seqlen_q;
        options.max_seqlen_kv = max_seqlen_k;
        options.scale_block = scale_block;
        options.v_transposed = v_transposed;
        options.max_scratch_bytes = max_scratch_bytes;
        if (backend != "auto") options.backend = unwrap(backend_from_name(backend));

        make_out(q, out_argument, out_dtype, take);
        if (return_lse) make_lse(q);
    }

    [[nodiscard]] nb::object result() const { return lse.is_valid() ? nb::object(nb::make_tuple(out, lse)) : out; }

private:
    /// A Python or NumPy number. No tensors: reading one from a GPU would wait for it.
    static double number(nb::handle object, const char* name) {
        const double value = nb::hasattr(object, "__dlpack__") ? -1.0 : PyFloat_AsDouble(object.ptr());
        if (value == -1.0 && (PyErr_Occurred() || nb::hasattr(object, "__dlpack__"))) {
            PyErr_Clear();
            throw nb::type_error((std::string(name) + ": expected a number; got " + nb::cast<std::string>(nb::str(object.type()))).c_str());
        }
        return value;
    }

    template <class Take>
    void make_out(nb::handle q, nb::handle argument, nb::handle out_dtype, Take take) {
        // Eight bits of an output are too few to be had unasked.
        DType dtype = tensors.q.dtype == DType::e4m3 ? DType::bf16 : tensors.q.dtype;
        if (!out_dtype.is_none()) dtype = dtype_from(out_dtype, "out_dtype");
        if (argument.is_none()) {
            out = empty_like(q, *entry, dtype, tensors.q.dtype);
            take(tensors.o, out, "out");
            return;
        }
        if (take(tensors.o, argument, "out")) fail(Code::invalid_argument, "out", "read-only; allowed: a writable array");
        if (!out_dtype.is_none() && tensors.o.dtype != dtype) {
            fail(Code::invalid_argument, "out_dtype",
                 std::string(name_of(dtype)) + " contradicts out, which is " + std::string(name_of(tensors.o.dtype)));
        }
        out = nb::borrow(argument);
    }

    void make_lse(nb::handle q) {
        const auto& shape = tensors.q.shape;
        const nb::tuple wanted = tensors.q.rank == 4 ? nb::make_tuple(shape[0], shape[2], shape[1]) : nb::make_tuple(shape[1], shape[0]);
        lse = empty(q, *entry, wanted, DType::f32, "return_lse");
        tensors.lse = view_of(lse, *entry, "lse").view;
    }
};

nb::object attention(nb::handle q, nb::handle k, nb::handle v, bool causal, nb::handle scale, nb::handle cu_seqlens_q, nb::handle cu_seqlens_k,
                     std::optional<std::int64_t> max_seqlen_q, std::optional<std::int64_t> max_seqlen_k, nb::handle out, nb::handle out_dtype,
                     bool return_lse, nb::handle q_scale, nb::handle k_scale, nb::handle v_scale, std::optional<std::int64_t> scale_block,
                     bool v_transposed, std::optional<std::int64_t> max_scratch_bytes, std::string_view backend, nb::handle stream) {
    Call call(q, k, v, causal, scale, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, out, out_dtype, return_lse, q_scale, k_scale, v_scale,
              scale_block, v_transposed, max_scratch_bytes, backend);
    const Stream on = stream.is_none() ? current_stream(*call.entry, call.tensors.q) : stream_from(stream);
    Result<void> done;
    {
        nb::gil_scoped_release release;
        done = hopfill::attention(call.tensors, call.options, on);
    }
    unwrap(std::move(done));
    return call.result();
}

Plan plan(nb::handle q, nb::handle k, nb::handle v, bool causal, nb::handle scale, nb::handle cu_seqlens_q, nb::handle cu_seqlens_k,
          std::optional<std::int64_t> max_seqlen_q, std::optional<std::int64_t> max_seqlen_k, nb::handle out, nb::handle out_dtype, bool return_lse,
          nb::handle q_scale, nb::handle k_scale, nb::handle v_scale, std::optional<std::int64_t> scale_block, bool v_transposed,
          std::optional<std::int64_t> max_scratch_bytes, std::string_view backend) {
    const Call call(q, k, v, causal, scale, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, out, out_dtype, return_lse, q_scale, k_scale,
                    v_scale, scale_block, v_transposed, max_scratch_bytes, backend);
    const AttentionProblem problem = unwrap(describe(call.tensors, call.options));
    Backend chosen = call.options.backend;
    if (chosen == Backend::automatic) chosen = call.tensors.q.device.kind == Device::Kind::cpu ? Backend::cpu : Backend::sm90;
    const Result<DeviceInfo> device = current_device();
    return unwrap(hopfill::plan(problem, device.ok() ? *device : DeviceInfo{}, chosen));
}

nb::dict device_dict(const DeviceInfo& d) {
    nb::dict out;
    out["name"] = d.name;
    out["compute_capability"] = nb::make_tuple(d.sm_major, d.sm_minor);
    out["num_sms"] = d.num_sms;
    out["shared_memory_per_block"] = d.shared_memory_per_block;
    out["l2_bytes"] = d.l2_bytes;
    return out;
}

nb::dict info() {
    const Info i = hopfill::info();
    nb::list backends, kernels;
    for (const Backend b : i.backends) backends.append(name_of(b));
    for (const KernelInfo& k : i.kernels) {
        nb::dict entry;
        entry["name"] = k.name;
        entry["key"] = k.key;
        entry["registers"] = k.registers;
        entry["shared"] = k.shared_bytes;
        entry["spills"] = k.spill_bytes;
        entry["evidence"] = k.evidence;
        kernels.append(entry);
    }
    nb::dict out;
    out["version"] = i.version;
    out["backends"] = backends;
    out["gpu"] = i.gpu ? nb::object(device_dict(*i.gpu)) : nb::none();
    out["driver"] = i.driver;
    out["nvrtc"] = i.nvrtc;
    out["kernels"] = kernels;
    return out;
}

}  // namespace

NB_MODULE(_core, m) {
    m.doc() = "The compiled part of hopfill.";
    register_errors(m);

    nb::class_<Plan>(m, "Plan", doc::plan_class)
        .def_prop_ro(
            "backend", [](const Plan& p) { return name_of(p.backend); }, "'sm90', 'cpu', 'emulated' or 'oracle'.")
        .def_ro("kernel", &Plan::kernel, "Name of the kernel; '' for the cpu and oracle backends.")
        .def_ro("tile_m", &Plan::tile_m, "Query rows of a tile.")
        .def_ro("tile_n", &Plan::tile_n, "Keys of a KV block.")
        .def_ro("stages", &Plan::stages, "KV blocks in flight.")
        .def_ro("threads", &Plan::threads, "Threads of a block.")
        .def_ro("grid", &Plan::grid, "Blocks.")
        .def_ro("shared_bytes", &Plan::shared_bytes, "Dynamic shared memory of a block, in bytes.")
        .def_ro("jobs", &Plan::jobs, "(query tile, head, sequence) triples; for packed batches a bound.")
        .def_ro("split_jobs", &Plan::split_jobs, "Jobs whose keys blocks share: the last ones, with a mask the longest.")
        .def_ro("parts", &Plan::parts, "Parts of a split job's keys.")
        .def_ro("scratch_bytes", &Plan::scratch_bytes, "Device memory that a run takes, in bytes.")
        .def_ro("modelled_us", &Plan::modelled_us, "The cost model's estimate of the kernel's time, in microseconds.")
        .def(nb::self == nb::self, nb::sig("def __eq__(self, other: object, /) -> bool"))
        .def("__str__", &Plan::to_string)
        .def("__repr__", [](const Plan& p) { return "<hopfill.Plan " + (p.kernel.empty() ? std::string(name_of(p.backend)) : p.kernel) + ">"; });

    using namespace nb::literals;
    const auto none = nb::none();
    m.def("attention", &attention, "q"_a, "k"_a, "v"_a, nb::kw_only(), "causal"_a = false, "scale"_a = none, "cu_seqlens_q"_a = none,
          "cu_seqlens_k"_a = none, "max_seqlen_q"_a = none, "max_seqlen_k"_a = none, "out"_a = none, "out_dtype"_a = none, "return_lse"_a = false,
          "q_scale"_a = none, "k_scale"_a = none, "v_scale"_a = none, "scale_block"_a = none, "v_transposed"_a = false,
          "max_scratch_bytes"_a = none, "backend"_a = "auto", "stream"_a = none, doc::attention);
    m.def("plan", &plan, "q"_a, "k"_a, "v"_a, nb::kw_only(), "causal"_a = false, "scale"_a = none, "cu_seqlens_q"_a = none, "cu_seqlens_k"_a = none,
          "max_seqlen_q"_a = none, "max_seqlen_k"_a = none, "out"_a = none, "out_dtype"_a = none, "return_lse"_a = false, "q_scale"_a = none,
          "k_scale"_a = none, "v_scale"_a = none, "scale_block"_a = none, "v_transposed"_a = false,
          "max_scratch_bytes"_a = none, "backend"_a = "auto", doc::plan);
    define_quantize(m);
    m.def("info", &info, doc::info);
}

}  // namespace hopfill::python
