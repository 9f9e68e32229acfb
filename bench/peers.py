"""How each implementation is called. Every one gives (call, output): call() launches once on the current stream, output() is what it wrote as
[tokens, heads, head_dim]. Argument lists of compiled extensions follow the versions named beside them.

Peers are looked for among the installed packages, and where these variables point (folders or files that were brought along):
PEERS_PATH_CUDNN and PEERS_PATH_FA4 (extra import paths), PEERS_FA3_SO and PEERS_FA3V_SO (FlashAttention-3's extension in the xformers and the
vllm wheel), PEERS_CUDART12 (the CUDA 12 runtime that the former needs), PEERS_MODS (FlashInfer's modules, built ahead).
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from cases import GEMM_SIZE
from problem import Problem

Call = tuple[Callable[[], None], Callable[[], torch.Tensor]]


class Unsupported(Exception):
    """This implementation does not compute this case; the text says why."""


def need(condition: bool, why: str) -> None:
    if not condition:
        raise Unsupported(why)


@dataclass(frozen=True)
class Implementation:
    name: str
    setup: Callable[[], str]  # imports it; returns its version
    build: Callable[[Problem], Call]


IMPLEMENTATIONS: dict[str, Implementation] = {}


def implementation(name: str, setup: Callable[[], str]):
    def register(build: Callable[[Problem], Call]):
        IMPLEMENTATIONS[name] = Implementation(name, setup, build)
        return build

    return register


def version_of(*packages: str) -> str:
    found = []
    for package in packages:
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return ", ".join(found) or "unknown"


def extra_path(variable: str) -> None:
    for entry in reversed([p for p in os.environ.get(variable, "").split(":") if p]):
        sys.path.insert(0, entry)


# ---- ours, the yardstick and the floor


def setup_hopfill() -> str:
    import hopfill

    return f"hopfill {hopfill.__version__}"


def build_ours(p: Problem, tensors: list[torch.Tensor], **options) -> Call:
    import hopfill

    q, k, v = tensors
    options["causal"] = p.case.causal
    if not p.is_dense:
        options |= {"cu_seqlens_q": p.cu_q, "cu_seqlens_k": p.cu_kv, "max_seqlen_q": p.max_q, "max_seqlen_k": p.max_kv}
    if k.dtype == torch.float8_e4m3fn:
        names = ("q_scale", "k_scale", "v_scale")
        options |= {n: s for n, s, t in zip(names, p.multipliers(), tensors, strict=True) if t.dtype == torch.float8_e4m3fn}
    out = p.new_output().view(q.shape)

    def call() -> None:
        hopfill.attention(q, k, v, out=out, **options)

    call.plan = lambda: hopfill.plan(q, k, v, out=out, **options)
    return call, lambda: out.view(-1, p.case.heads, p.case.head_dim_vo)


@implementation("hopfill", setup_hopfill)
def build_hopfill(p: Problem) -> Call:
    return build_ours(p, p.dense() if p.is_dense else [p.q, p.k, p.v])


@implementation("hopfill-vt", setup_hopfill)
def build_hopfill_vt(p: Problem) -> Call:
    """V as [batch, heads, head_dim, seq], made outside the timing."""
    need(p.is_dense, "V transposed goes with dense batches")
    q, k, v = p.dense()
    return build_ours(p, [q, k, v.permute(0, 2, 3, 1).contiguous()], v_transposed=True)


@implementation("hopfill-bf16", setup_hopfill)
def build_hopfill_bf16(p: Problem) -> Call:
    """Our 16-bit kernel on the same numbers, which bf16 holds exactly."""
    return build_ours(p, [t.to(torch.bfloat16) for t in (p.dense() if p.is_dense else [p.q, p.k, p.v])])


def setup_torch() -> str:
    return f"torch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}"


@implementation("gemm", setup_torch)
def build_gemm(p: Problem) -> Call:
    a, b = (torch.randn(GEMM_SIZE, GEMM_SIZE, device=p.device, dtype=torch.bfloat16) for _ in range(2))
    out = torch.empty_like(a)
    if p.is_fp8:
        a8, b8, one = a.to(torch.float8_e4m3fn), b.to(torch.float8_e4m3fn).t(), torch.ones((), device=p.device)
        options = {"scale_a": one, "scale_b": one, "out_dtype": torch.bfloat16, "use_fast_accum": True, "out": out}
        return lambda: torch._scaled_mm(a8, b8, **options), lambda: out
    return lambda: torch.mm(a, b, out=out), lambda: out


EMPTY_PTX = b".version 8.0\n.target sm_90\n.address_size 64\n.visible .entry empty()\n{\nret;\n}\n\0"


def setup_driver() -> str:
    version = ctypes.c_int()
    ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
    return f"CUDA driver {version.value // 1000}.{version.value % 1000 // 10}"


@implementation("empty", setup_driver)
def build_empty(p: Problem) -> Call:
    """128 blocks of 384 threads that do nothing: the floor of a launch in a graph."""
    torch.cuda.current_stream()  # makes torch's context current
    cuda, module, function = ctypes.CDLL("libcuda.so.1"), ctypes.c_void_p(), ctypes.c_void_p()
    status = cuda.cuModuleLoadData(ctypes.byref(module), EMPTY_PTX) or cuda.cuModuleGetFunction(ctypes.byref(function), module, b"empty")
    need(status == 0, f"the driver refused the empty kernel: CUDA error {status}")

    def call() -> None:
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        error = cuda.cuLaunchKernel(function, 128, 1, 1, 384, 1, 1, 0, stream, None, None)
        if error:
            raise RuntimeError(f"cuLaunchKernel: CUDA error {error}")

    call.module = module
    return call, lambda: torch.empty(0)


# ---- PyTorch's scaled_dot_product_attention


def build_sdpa(p: Problem, backend: str) -> Call:
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention

    need(p.is_dense, "scaled_dot_product_attention takes dense batches")
    q, k, v = (t.transpose(1, 2) for t in p.dense())
    options = {"is_causal": p.case.causal, "enable_gqa": p.case.heads != p.case.kv_heads}
    if p.case.causal and p.max_q != p.max_kv:  # is_causal is aligned top-left
        from torch.nn.attention.bias import causal_lower_right

        # Other backends would be given a tensor of queries x keys, made anew by each call.
        need(backend == "FLASH_ATTENTION", "PyTorch gives only FlashAttention-2 a causal mask that is aligned bottom-right")
        options |= {"is_causal": False, "attn_mask": causal_lower_right(p.max_q, p.max_kv)}
    chosen, result = getattr(SDPBackend, backend), [None]

    def call() -> None:
        with sdpa_kernel(chosen):
            result[0] = scaled_dot_product_attention(q, k, v, **options)

    return call, lambda: result[0].transpose(1, 2).reshape(p.case.tokens_q, p.case.heads, p.case.head_dim_vo)


@implementation("cudnn", setup_torch)
def build_cudnn(p: Problem) -> Call:
    return build_sdpa(p, "CUDNN_ATTENTION")


@implementation("fa2", setup_torch)
def build_fa2(p: Problem) -> Call:
    return build_sdpa(p, "FLASH_ATTENTION")


# ---- cuDNN's frontend


def setup_cudnn_frontend() -> str:
    extra_path("PEERS_PATH_CUDNN")
    import cudnn

    return f"cudnn-frontend {cudnn.__version__}, cuDNN {cudnn.backend_version()}"


@implementation("cudnn-fe", setup_cudnn_frontend)
def build_cudnn_frontend(p: Problem) -> Call:
    import cudnn_graph

    return cudnn_graph.build(p)


# ---- FlashInfer


def setup_flashinfer() -> str:
    import flashinfer
    from flashinfer.jit import core

    folder = os.environ.get("PEERS_MODS")
    if folder:
        load_or_none = core.JitSpecNvcc.try_load

        def try_load(spec):
            built = Path(folder) / f"{spec.name}.so"
            return spec.load(built) if built.exists() else load_or_none(spec)

        core.JitSpecNvcc.try_load = try_load
    return f"flashinfer {flashinfer.__version__}"


_workspaces: dict[str, torch.Tensor] = {}


def workspace(name: str) -> torch.Tensor:
    if name not in _workspaces:
        _workspaces[name] = torch.zeros(384 << 20, device="cuda", dtype=torch.uint8)
    return _workspaces[name]


def build_flashinfer(p: Problem, backend: str, **plan) -> Call:
    import flashinfer

    case, out = p.case, p.new_output()
    wrapper = flashinfer.BatchPrefillWithRaggedKVCacheWrapper(workspace("flashinfer"), "NHD", backend=backend)
    dtypes = {"q_data_type": p.q.dtype, "kv_data_type": p.k.dtype, "o_data_type": out.dtype}
    wrapper.plan(p.cu_q, p.cu_kv, case.heads, case.kv_heads, case.head_dim_qk, case.head_dim_vo, causal=case.causal, **dtypes, **plan)
    scales = p.multipliers() if p.is_fp8 else []
    return lambda: wrapper.run(p.q, p.k, p.v, *scales, out=out), lambda: out


def build_flashinfer_single(p: Problem, backend: str) -> Call:
    import flashinfer

    need(p.is_dense and p.case.batch == 1, "one sequence only")
    result, options = [None], {"causal": p.case.causal, "backend": backend}
    if p.is_fp8:
        options |= dict(zip(("scale_q", "scale_k", "scale_v"), p.multipliers(), strict=True)) | {"o_dtype": p.new_output().dtype}

    def call() -> None:
        result[0] = flashinfer.single_prefill_with_kv_cache(p.q, p.k, p.v, **options)

    return call, lambda: result[0]


@implementation("flashinfer-fa2", setup_flashinfer)
def build_flashinfer_fa2(p: Problem) -> Call:
    return build_flashinfer(p, "fa2")


@implementation("flashinfer-fa2-nosplit", setup_flashinfer)
def build_flashinfer_fa2_nosplit(p: Problem) -> Call:
    return build_flashinfer(p, "fa2", disable_split_kv=True)


@implementation("flashinfer-fa3", setup_flashinfer)
def build_flashinfer_fa3(p: Problem) -> Call:
    return build_flashinfer(p, "fa3")


@implementation("flashinfer-fa2-single", setup_flashinfer)
def build_flashinfer_fa2_single(p: Problem) -> Call:
    return build_flashinfer_single(p, "fa2")


@implementation("flashinfer-fa3-single", setup_flashinfer)
def build_flashinfer_fa3_single(p: Problem) -> Call:
    return build_flashinfer_single(p, "fa3")


def build_fmha_v2(p: Problem, packed_qkv: bool) -> Call:
    """TensorRT-LLM's fmha_v2. Right for as many queries as keys only."""
    from flashinfer.prefill import trtllm_fmha_v2_prefill

    case, out, scratch = p.case, p.new_output(), workspace("fmha_v2")
    need(p.lengths_q == p.lengths_kv, "wrong results with fewer queries than keys")
    if packed_qkv:
        need(case.heads == case.kv_heads, "packed q, k, v need as many KV heads as heads")
        layout, tensors = "PACKED_QKV", torch.stack([p.q, p.k, p.v], 1).contiguous()
    elif p.is_fp8:  # refuses e4m3 with k and v apart
        layout, tensors = "CONTIGUOUS_Q_KV", (p.q, torch.stack([p.k, p.v], 1).contiguous())
    else:
        layout, tensors = "SEPARATE_Q_K_V", (p.q, p.k, p.v)
    sizes = (p.max_q, p.max_kv, p.scale, 1.0, case.batch, p.cu_q, p.cu_kv)
    mask = "causal" if case.causal else "padding"

    def call() -> None:
        trtllm_fmha_v2_prefill(tensors, layout, scratch, p.seq_kv, *sizes, block_tables=None, out=out, mask_mode=mask)

    return call, lambda: out


@implementation("fmha_v2", setup_flashinfer)
def build_fmha_v2_separate(p: Problem) -> Call:
    return build_fmha_v2(p, packed_qkv=False)


@implementation("fmha_v2-packed", setup_flashinfer)
def build_fmha_v2_packed(p: Problem) -> Call:
    return build_fmha_v2(p, packed_qkv=True)


# ---- FlashAttention-3 and -4


def load_extension(variable: str, package: str, pattern: str) -> None:
    path = os.environ.get(variable)
    if not path:
        spec = importlib.util.find_spec(package)
        found = sorted(Path(spec.submodule_search_locations[0]).glob(pattern)) if spec else []
        if not found:
            raise ImportError(f"neither ${variable} nor {package} with {pattern} is here")
        path = str(found[0])
    torch.ops.load_library(path)


def setup_fa3() -> str:
    if os.environ.get("PEERS_CUDART12"):
        ctypes.CDLL(os.environ["PEERS_CUDART12"], mode=ctypes.RTLD_GLOBAL)
    load_extension("PEERS_FA3_SO", "xformers", "**/flash_attn_3/_C*.so")
    return "flash-attn-3 of the xformers 0.0.34 wheel"


BY_HEURISTIC = 0  # as a number of splits of the keys: FlashAttention-3 chooses it by how many SMs would have no work


@implementation("fa3", setup_fa3)
def build_fa3(p: Problem, splits: int = 1) -> Call:
    forward = torch.ops.flash_attn_3.fwd
    q, k, v = p.dense() if p.is_dense else (p.q, p.k, p.v)
    options = {"softmax_scale": p.scale, "is_causal": p.case.causal, "num_splits": splits}
    if not p.is_dense:
        options |= {"cu_seqlens_q": p.cu_q, "cu_seqlens_k": p.cu_kv, "max_seqlen_q": p.max_q, "max_seqlen_k": p.max_kv}
    out = torch.empty_like(q)
    return lambda: forward(q, k, v, out=out, **options), lambda: out.view(-1, p.case.heads, p.case.head_dim_vo)


@implementation("fa3-split", setup_fa3)
def build_fa3_split(p: Problem) -> Call:
    return build_fa3(p, BY_HEURISTIC)


def setup_fa3_vllm() -> str:
    load_extension("PEERS_FA3V_SO", "vllm", "**/_vllm_fa3_C*.so")
    return "flash-attn-3 of the vllm 0.26.0 wheel"


@implementation("fa3-vllm", setup_fa3_vllm)
def build_fa3_vllm(p: Problem, splits: int = 1) -> Call:
    """This build takes packed batches only; its tile metadata is made once, outside the timing."""
    case, ops, out = p.case, torch.ops._vllm_fa3_C, p.new_output()
    sizes = (case.batch, p.max_q, p.max_kv, case.heads, case.kv_heads, case.head_dim_qk, case.head_dim_vo, p.q.dtype)
    no_page, no_margin = None, 0
    metadata = ops.get_scheduler_metadata(
        *sizes, p.seq_kv, p.cu_q, None, None, None, None, no_page, 0, case.causal, -1, -1, False, splits, None, no_margin
    )
    tensors = (p.q, p.k, p.v, None, None, None, out, p.cu_q, p.cu_kv, None, None, None, p.max_q, p.max_kv)
    scales = [torch.ones(case.batch, heads, device=p.device) for heads in 3 * [case.kv_heads]] if p.is_fp8 else [None, None, None]
    unused = (None, None, None, None, None, None)  # page table to rotary tables
    rest = (p.scale, case.causal, -1, -1, 0.0, True, metadata, splits, None, no_margin, None, 1, 0, None)
    return lambda: ops.fwd(*tensors, *unused, *scales, *rest), lambda: out


@implementation("fa3-vllm-split", setup_fa3_vllm)
def build_fa3_vllm_split(p: Problem) -> Call:
    return build_fa3_vllm(p, BY_HEURISTIC)


def setup_fa4() -> str:
    extra_path("PEERS_PATH_FA4")
    import flash_attn.cute.cache_utils as cache_utils

    cache_utils._compute_source_fingerprint = lambda: "fixed"  # reads every source file otherwise
    return version_of("flash-attn-4", "nvidia-cutlass-dsl")


@implementation("fa4", setup_fa4)
def build_fa4(p: Problem) -> Call:
    from flash_attn.cute.interface import flash_attn_func, flash_attn_varlen_func

    options, result = {"softmax_scale": p.scale, "causal": p.case.causal}, [None]
    q, k, v = p.dense() if p.is_dense else (p.q, p.k, p.v)
    if not p.is_dense:
        options |= {"cu_seqlens_q": p.cu_q, "cu_seqlens_k": p.cu_kv, "max_seqlen_q": p.max_q, "max_seqlen_k": p.max_kv}
    function = flash_attn_func if p.is_dense else flash_attn_varlen_func

    def call() -> None:
        result[0] = function(q, k, v, **options)

    def output() -> torch.Tensor:
        out = result[0][0] if isinstance(result[0], (tuple, list)) else result[0]
        return out.reshape(p.case.tokens_q, p.case.heads, p.case.head_dim_vo)

    return call, output
