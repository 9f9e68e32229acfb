// The CUDA driver API, opened at run time: only what Hopfill, its tests and its bench call. Declarations follow the CUDA Driver API reference.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "hopfill/result.h"
#include "plan/types.h"

namespace hopfill::cuda {

using CUresult = int;  // 0 is success
using CUdevice = int;
using CUdeviceptr = std::uint64_t;
using CUcontext = struct CUctx_st*;
using CUmodule = struct CUmod_st*;
using CUfunction = struct CUfunc_st*;
using CUstream = struct CUstream_st*;
using CUevent = struct CUevent_st*;
using CUmemoryPool = struct CUmemPoolHandle_st*;
using CUgraph = struct CUgraph_st*;
using CUgraphExec = struct CUgraphExec_st*;

constexpr CUresult kErrorInvalidContext = 201;

enum CUdeviceAttribute : int {
    CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT = 16,
    CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE = 38,
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 75,
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = 76,
    CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN = 97,
};
enum CUfunctionAttribute : int {
    CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES = 1,
    CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES = 8,
};
enum CUstreamFlags : unsigned { CU_STREAM_DEFAULT = 0, CU_STREAM_NON_BLOCKING = 1 };
enum CUstreamCaptureMode : int { CU_STREAM_CAPTURE_MODE_GLOBAL = 0, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL = 1, CU_STREAM_CAPTURE_MODE_RELAXED = 2 };
enum CUstreamCaptureStatus : int { CU_STREAM_CAPTURE_STATUS_NONE = 0, CU_STREAM_CAPTURE_STATUS_ACTIVE = 1, CU_STREAM_CAPTURE_STATUS_INVALIDATED = 2 };
enum CUmemAllocationType : int { CU_MEM_ALLOCATION_TYPE_PINNED = 1 };
enum CUmemLocationType : int { CU_MEM_LOCATION_TYPE_DEVICE = 1 };
enum CUmemPool_attribute : int { CU_MEMPOOL_ATTR_RELEASE_THRESHOLD = 4 };

struct CUmemPoolProps {
    CUmemAllocationType type;
    int handle_types;  // 0: not shared with other processes
    CUmemLocationType location_type;
    int location_id;
    void* win32_security_attributes;
    char reserved[64];  // must be 0; newer drivers have a maximal size in it, of which 0 is none
};
static_assert(sizeof(CUmemPoolProps) == 88);

enum CUlaunchAttributeID : int { CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION = 6 };

struct CUlaunchAttribute {
    CUlaunchAttributeID id;
    char pad[8 - sizeof(CUlaunchAttributeID)];
    union {
        char bytes[64];
        int programmatic_stream_serialization_allowed;
    } value;
};
static_assert(sizeof(CUlaunchAttribute) == 72);

struct CUlaunchConfig {
    unsigned grid_x, grid_y, grid_z;
    unsigned block_x, block_y, block_z;
    unsigned shared_bytes;
    CUstream stream;
    CUlaunchAttribute* attributes;
    unsigned attribute_count;
};
static_assert(sizeof(CUlaunchConfig) == 56);

// The last arguments of cuTensorMapEncodeTiled.
enum CUtensorMapDataType : int {
    CU_TENSOR_MAP_DATA_TYPE_UINT8 = 0,
    CU_TENSOR_MAP_DATA_TYPE_FLOAT16 = 6,
    CU_TENSOR_MAP_DATA_TYPE_FLOAT32 = 7,
    CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 = 9,
};
enum CUtensorMapInterleave : int { CU_TENSOR_MAP_INTERLEAVE_NONE = 0 };
enum CUtensorMapSwizzle : int {
    CU_TENSOR_MAP_SWIZZLE_NONE = 0,
    CU_TENSOR_MAP_SWIZZLE_32B = 1,
    CU_TENSOR_MAP_SWIZZLE_64B = 2,
    CU_TENSOR_MAP_SWIZZLE_128B = 3,
};
enum CUtensorMapL2promotion : int { CU_TENSOR_MAP_L2_PROMOTION_L2_256B = 3 };
enum CUtensorMapFloatOOBfill : int { CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE = 0 };

// name in this struct, exported symbol (the newest version that CUDA 12.0's driver has), parameters
#define HOPFILL_DRIVER_FUNCTIONS(X)                                                                                                             \
    X(cuInit, cuInit, (unsigned))                                                                                                               \
    X(cuDriverGetVersion, cuDriverGetVersion, (int*))                                                                                           \
    X(cuGetErrorName, cuGetErrorName, (CUresult, const char**))                                                                                 \
    X(cuGetErrorString, cuGetErrorString, (CUresult, const char**))                                                                             \
    X(cuDeviceGet, cuDeviceGet, (CUdevice*, int))                                                                                               \
    X(cuDeviceGetCount, cuDeviceGetCount, (int*))                                                                                               \
    X(cuDeviceGetName, cuDeviceGetName, (char*, int, CUdevice))                                                                                 \
    X(cuDeviceGetAttribute, cuDeviceGetAttribute, (int*, CUdeviceAttribute, CUdevice))                                                          \
    X(cuDevicePrimaryCtxRetain, cuDevicePrimaryCtxRetain, (CUcontext*, CUdevice))                                                               \
    X(cuCtxGetCurrent, cuCtxGetCurrent, (CUcontext*))                                                                                           \
    X(cuCtxSetCurrent, cuCtxSetCurrent, (CUcontext))                                                                                            \
    X(cuCtxGetDevice, cuCtxGetDevice, (CUdevice*))                                                                                              \
    X(cuCtxGetId, cuCtxGetId, (CUcontext, unsigned long long*))                                                                                 \
    X(cuCtxSynchronize, cuCtxSynchronize, ())                                                                                                   \
    X(cuModuleLoadData, cuModuleLoadData, (CUmodule*, const void*))                                                                             \
    X(cuModuleUnload, cuModuleUnload, (CUmodule))                                                                                               \
    X(cuModuleGetFunction, cuModuleGetFunction, (CUfunction*, CUmodule, const char*))                                                           \
    X(cuFuncSetAttribute, cuFuncSetAttribute, (CUfunction, CUfunctionAttribute, int))                                                           \
    X(cuFuncGetAttribute, cuFuncGetAttribute, (int*, CUfunctionAttribute, CUfunction))                                                          \
    X(cuLaunchKernelEx, cuLaunchKernelEx, (const CUlaunchConfig*, CUfunction, void**, void**))                                                  \
    X(cuTensorMapEncodeTiled, cuTensorMapEncodeTiled,                                                                                           \
      (TensorMap*, CUtensorMapDataType, std::uint32_t, void*, const std::uint64_t*, const std::uint64_t*, const std::uint32_t*,                 \
       const std::uint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill))                       \
    X(cuMemAlloc, cuMemAlloc_v2, (CUdeviceptr*, std::size_t))                                                                                   \
    X(cuMemFree, cuMemFree_v2, (CUdeviceptr))                                                                                                   \
    X(cuMemGetInfo, cuMemGetInfo_v2, (std::size_t*, std::size_t*))                                                                              \
    X(cuMemcpyHtoD, cuMemcpyHtoD_v2, (CUdeviceptr, const void*, std::size_t))                                                                   \
    X(cuMemcpyDtoH, cuMemcpyDtoH_v2, (void*, CUdeviceptr, std::size_t))                                                                         \
    X(cuMemcpyDtoD, cuMemcpyDtoD_v2, (CUdeviceptr, CUdeviceptr, std::size_t))                                                                   \
    X(cuMemsetD8, cuMemsetD8_v2, (CUdeviceptr, unsigned char, std::size_t))                                                                     \
    X(cuMemsetD8Async, cuMemsetD8Async, (CUdeviceptr, unsigned char, std::size_t, CUstream))                                                    \
    X(cuMemPoolCreate, cuMemPoolCreate, (CUmemoryPool*, const CUmemPoolProps*))                                                                 \
    X(cuMemPoolDestroy, cuMemPoolDestroy, (CUmemoryPool))                                                                                       \
    X(cuMemPoolSetAttribute, cuMemPoolSetAttribute, (CUmemoryPool, CUmemPool_attribute, void*))                                                 \
    X(cuMemAllocFromPoolAsync, cuMemAllocFromPoolAsync, (CUdeviceptr*, std::size_t, CUmemoryPool, CUstream))                                    \
    X(cuMemFreeAsync, cuMemFreeAsync, (CUdeviceptr, CUstream))                                                                                  \
    X(cuStreamCreate, cuStreamCreate, (CUstream*, unsigned))                                                                                    \
    X(cuStreamDestroy, cuStreamDestroy_v2, (CUstream))                                                                                          \
    X(cuStreamSynchronize, cuStreamSynchronize, (CUstream))                                                                                     \
    X(cuStreamGetId, cuStreamGetId, (CUstream, unsigned long long*))                                                                            \
    X(cuStreamIsCapturing, cuStreamIsCapturing, (CUstream, CUstreamCaptureStatus*))                                                             \
    X(cuStreamBeginCapture, cuStreamBeginCapture_v2, (CUstream, CUstreamCaptureMode))                                                           \
    X(cuStreamEndCapture, cuStreamEndCapture, (CUstream, CUgraph*))                                                                             \
    X(cuThreadExchangeStreamCaptureMode, cuThreadExchangeStreamCaptureMode, (CUstreamCaptureMode*))                                             \
    X(cuEventCreate, cuEventCreate, (CUevent*, unsigned))                                                                                       \
    X(cuEventDestroy, cuEventDestroy_v2, (CUevent))                                                                                             \
    X(cuEventRecord, cuEventRecord, (CUevent, CUstream))                                                                                        \
    X(cuEventSynchronize, cuEventSynchronize, (CUevent))                                                                                        \
    X(cuEventElapsedTime, cuEventElapsedTime, (float*, CUevent, CUevent))                                                                       \
    X(cuGraphInstantiate, cuGraphInstantiateWithFlags, (CUgraphExec*, CUgraph, unsigned long long))                                             \
    X(cuGraphLaunch, cuGraphLaunch, (CUgraphExec, CUstream))                                                                                    \
    X(cuGraphExecDestroy, cuGraphExecDestroy, (CUgraphExec))                                                                                    \
    X(cuGraphDestroy, cuGraphDestroy, (CUgraph))

struct Driver {
#define HOPFILL_DECLARE(name, symbol, parameters) CUresult(*name) parameters = nullptr;
    HOPFILL_DRIVER_FUNCTIONS(HOPFILL_DECLARE)
#undef HOPFILL_DECLARE
    int version = 0;  // of CUDA that the driver supports: 1000 * major + 10 * minor

    // "CUDA_ERROR_INVALID_VALUE (invalid argument)"
    [[nodiscard]] std::string describe(CUresult status) const;
    // Success, or Code::device with what was tried and the driver's name of the error.
    [[nodiscard]] Result<void> check(CUresult status, const char* what) const;
};

// Opens libcuda.so.1 and initialises it, once. Errors: unavailable (no driver, a driver before CUDA 12.0, no device).
Result<const Driver*> driver();

// "13.0" of 13000.
std::string version_text(int version);

// Makes sure that a context is current on this thread (device 0's primary context when there is none) and returns its id,
// which no later context of the process shares.
Result<unsigned long long> current_context(const Driver& cu);

}  // namespace hopfill::cuda
