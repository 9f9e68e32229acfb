from typing import Any, Literal, SupportsFloat, TypedDict, TypeVar, overload

Array = TypeVar("Array")
BackendName = Literal["auto", "sm90", "cpu", "emulated", "oracle"]

class Error(Exception):
    argument: str

class InvalidArgumentError(Error, ValueError): ...
class UnsupportedError(Error, ValueError): ...
class UnavailableError(Error, RuntimeError): ...
class DeviceError(Error, RuntimeError): ...
class FileError(Error, OSError): ...
class InternalError(Error, RuntimeError): ...

class GpuInfo(TypedDict):
    name: str
    compute_capability: tuple[int, int]
    num_sms: int
    shared_memory_per_block: int
    l2_bytes: int

class KernelInfo(TypedDict):
    name: str
    key: str
    registers: int
    shared: int
    spills: int
    evidence: str

class Info(TypedDict):
    version: str
    backends: list[str]
    gpu: GpuInfo | None
    driver: str
    nvrtc: str
    kernels: list[KernelInfo]

class Plan:
    @property
    def backend(self) -> str: ...
    @property
    def kernel(self) -> str: ...
    @property
    def tile_m(self) -> int: ...
    @property
    def tile_n(self) -> int: ...
    @property
    def stages(self) -> int: ...
    @property
    def threads(self) -> int: ...
    @property
    def grid(self) -> int: ...
    @property
    def shared_bytes(self) -> int: ...
    @property
    def jobs(self) -> int: ...
    @property
    def split_jobs(self) -> int: ...
    @property
    def parts(self) -> int: ...
    @property
    def scratch_bytes(self) -> int: ...
    @property
    def modelled_us(self) -> float: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __str__(self) -> str: ...

@overload
def attention(
    q: Array,
    k: Array,
    v: Array,
    *,
    causal: bool = False,
    scale: SupportsFloat | None = None,
    cu_seqlens_q: Array | None = None,
    cu_seqlens_k: Array | None = None,
    max_seqlen_q: int | None = None,
    max_seqlen_k: int | None = None,
    out: Array | None = None,
    out_dtype: Any = None,
    return_lse: Literal[False] = False,
    q_scale: Array | None = None,
    k_scale: Array | None = None,
    v_scale: Array | None = None,
    scale_block: int | None = None,
    v_transposed: bool = False,
    max_scratch_bytes: int | None = None,
    backend: BackendName = "auto",
    stream: Any = None,
) -> Array: ...
@overload
def attention(
    q: Array,
    k: Array,
    v: Array,
    *,
    causal: bool = False,
    scale: SupportsFloat | None = None,
    cu_seqlens_q: Array | None = None,
    cu_seqlens_k: Array | None = None,
    max_seqlen_q: int | None = None,
    max_seqlen_k: int | None = None,
    out: Array | None = None,
    out_dtype: Any = None,
    return_lse: Literal[True],
    q_scale: Array | None = None,
    k_scale: Array | None = None,
    v_scale: Array | None = None,
    scale_block: int | None = None,
    v_transposed: bool = False,
    max_scratch_bytes: int | None = None,
    backend: BackendName = "auto",
    stream: Any = None,
) -> tuple[Array, Array]: ...
def plan(
    q: Array,
    k: Array,
    v: Array,
    *,
    causal: bool = False,
    scale: SupportsFloat | None = None,
    cu_seqlens_q: Array | None = None,
    cu_seqlens_k: Array | None = None,
    max_seqlen_q: int | None = None,
    max_seqlen_k: int | None = None,
    out: Array | None = None,
    out_dtype: Any = None,
    return_lse: bool = False,
    q_scale: Array | None = None,
    k_scale: Array | None = None,
    v_scale: Array | None = None,
    scale_block: int | None = None,
    v_transposed: bool = False,
    max_scratch_bytes: int | None = None,
    backend: BackendName = "auto",
) -> Plan: ...
def quantize(
    k: Array,
    v: Array,
    *,
    k_scale: Literal["tensor", "head", "sequence", "block"] = "sequence",
    v_scale: Literal["tensor", "head", "sequence", "block", "channel"] = "sequence",
    scale_block: int | None = None,
    smooth_k: bool = False,
    transpose_v: bool = False,
    cu_seqlens_k: Array | None = None,
    max_seqlen_k: int | None = None,
    stream: Any = None,
) -> tuple[Array, Array, Array, Array, Array | None]: ...
def info() -> Info: ...
