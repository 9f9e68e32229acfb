// The parts of the DLPack 1.x binary interface (github.com/dmlc/dlpack, dlpack.h) that the extension reads. Field order and widths are the ABI.
#pragma once

#include <cstdint>

namespace hopfill::python::dl {

struct Version {
    std::uint32_t major, minor;
};

enum DeviceType : std::int32_t { cpu = 1, cuda = 2, cuda_host = 3, cuda_managed = 13 };

struct Device {
    std::int32_t type;
    std::int32_t id;
};

enum TypeCode : std::uint8_t { code_int = 0, code_float = 2, code_bfloat = 4, code_float8_e4m3fn = 10 };

struct DataType {
    std::uint8_t code;
    std::uint8_t bits;
    std::uint16_t lanes;
};

struct Tensor {
    void* data;
    Device device;
    std::int32_t ndim;
    DataType dtype;
    std::int64_t* shape;
    std::int64_t* strides;  ///< in elements; null (before DLPack 1.2) means contiguous
    std::uint64_t byte_offset;
};

/// What a capsule named "dltensor" holds.
struct ManagedTensor {
    Tensor tensor;
    void* context;
    void (*deleter)(ManagedTensor*);
};

/// What a capsule named "dltensor_versioned" holds.
struct ManagedTensorVersioned {
    Version version;
    void* context;
    void (*deleter)(ManagedTensorVersioned*);
    std::uint64_t flags;
    Tensor tensor;
};
constexpr std::uint64_t flag_read_only = 1;

/// What the type's capsule __dlpack_c_exchange_api__, named "dlpack_exchange_api", holds: exchange without Python calls or synchronisation.
struct ExchangeApi {
    Version version;
    ExchangeApi* previous;
    int (*allocate)(Tensor*, ManagedTensorVersioned**, void*, void (*)(void*, const char*, const char*));
    int (*managed_from_object)(void*, ManagedTensorVersioned**);
    int (*object_from_managed)(ManagedTensorVersioned*, void**);
    int (*tensor_from_object)(void*, Tensor*);  ///< may be null; the tensor borrows from the object
    int (*current_stream)(std::int32_t device_type, std::int32_t device_id, void** stream);
};

}  // namespace hopfill::python::dl
