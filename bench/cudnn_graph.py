"""One cuDNN frontend graph of scaled dot-product attention: dense, or packed with ragged offsets."""

from __future__ import annotations

import cudnn
import torch
from problem import Problem

_handle = None


def handle():
    global _handle
    if _handle is None:
        _handle = cudnn.create_handle()
    return _handle


WEIGHTS_SCALE = 256.0  # weights up to 1 fill e4m3's range


def fp8_attention(graph, p: Problem, q, k, v, variables: dict, **options):
    """The node for e4m3: multipliers of every tensor, and maxima that it computes whether wanted or not."""

    def scalar(name: str, value: float):
        t = graph.tensor(name=name, dim=[1, 1, 1, 1], stride=[1, 1, 1, 1], data_type=cudnn.data_type.FLOAT)
        variables[t] = torch.full((1, 1, 1, 1), value, device=p.device, dtype=torch.float32)
        return t

    scales = {name: scalar(name, 1.0) for name in ("descale_q", "descale_k", "descale_v")}
    given = {"scale_o": p.o_multiplier, "descale_s": 1 / WEIGHTS_SCALE, "scale_s": WEIGHTS_SCALE}
    scales |= {name: scalar(name, value) for name, value in given.items()}
    o, _, *maxima = graph.sdpa_fp8(q=q, k=k, v=v, **scales, generate_stats=False, attn_scale=p.scale, **options)
    for t in maxima:
        t.set_output(True).set_dim([1, 1, 1, 1]).set_stride([1, 1, 1, 1]).set_data_type(cudnn.data_type.FLOAT)
        variables[t] = torch.zeros(1, 1, 1, 1, device=p.device)
    return o


def build(p: Problem):
    case = p.case
    io_type = {"bf16": cudnn.data_type.BFLOAT16, "f16": cudnn.data_type.HALF, "e4m3": cudnn.data_type.FP8_E4M3}[case.dtype]
    graph = cudnn.pygraph(
        io_data_type=io_type, intermediate_data_type=cudnn.data_type.FLOAT, compute_data_type=cudnn.data_type.FLOAT, handle=handle()
    )
    variables = {}

    def tensor(name: str, data: torch.Tensor, dim, stride, dtype):
        t = graph.tensor(name=name, dim=list(dim), stride=list(stride), data_type=dtype)
        variables[t] = data
        return t

    def bhsd(seq: int, heads: int, d: int):
        """Sizes and strides of [batch, heads, seq, d] over memory laid out as [batch, seq, heads, d]."""
        return (case.batch, heads, seq, d), (seq * heads * d, d, heads * d, 1)

    def column(name: str, data: torch.Tensor, count: int):
        return tensor(name, data.view(-1, 1, 1, 1), (count, 1, 1, 1), (1, 1, 1, 1), cudnn.data_type.INT32)

    def ragged(name: str, offsets: torch.Tensor, elements: int):
        return column(name, (offsets.to(torch.int64) * elements).to(torch.int32), case.batch + 1)

    q = tensor("q", p.q, *bhsd(p.max_q, case.heads, case.head_dim_qk), io_type)
    k = tensor("k", p.k, *bhsd(p.max_kv, case.kv_heads, case.head_dim_qk), io_type)
    v = tensor("v", p.v, *bhsd(p.max_kv, case.kv_heads, case.head_dim_vo), io_type)
    options, o_offsets = {}, None
    if not p.is_dense:
        q.set_ragged_offset(ragged("q_offsets", p.cu_q, case.heads * case.head_dim_qk))
        k.set_ragged_offset(ragged("k_offsets", p.cu_kv, case.kv_heads * case.head_dim_qk))
        v.set_ragged_offset(ragged("v_offsets", p.cu_kv, case.kv_heads * case.head_dim_vo))
        o_offsets = ragged("o_offsets", p.cu_q, case.heads * case.head_dim_vo)
        lengths = {"seq_len_q": column("seq_q", p.seq_q, case.batch), "seq_len_kv": column("seq_kv", p.seq_kv, case.batch)}
        options |= {"use_padding_mask": True, **lengths}
    if case.causal:  # the plain one is aligned top-left; of the other cuDNN 9.19 refuses FP8 on Hopper
        options["use_causal_mask" if p.lengths_q == p.lengths_kv else "use_causal_mask_bottom_right"] = True
    if p.is_fp8:
        o = fp8_attention(graph, p, q, k, v, variables, **options)
    else:
        o, _ = graph.sdpa(name="sdpa", q=q, k=k, v=v, generate_stats=False, attn_scale=p.scale, **options)
    dim, stride = bhsd(p.max_q, case.heads, case.head_dim_vo)
    o.set_output(True).set_dim(list(dim)).set_stride(list(stride)).set_data_type(io_type)
    if o_offsets is not None:
        o.set_ragged_offset(o_offsets)
    graph.validate()
    graph.build_operation_graph()
    graph.create_execution_plans([cudnn.heur_mode.A, cudnn.heur_mode.FALLBACK])
    graph.check_support()
    graph.build_plans()
    out = p.new_output(p.q.dtype)  # e4m3 is what cuDNN writes for FP8
    p.stored_dtype = out.dtype
    variables[o] = out
    workspace = torch.empty(max(graph.get_workspace_size(), 16), device="cuda", dtype=torch.uint8)

    def call() -> None:
        cudnn.set_stream(handle=handle(), stream=torch.cuda.current_stream().cuda_stream)
        graph.execute(variables, workspace, handle=handle())

    return call, lambda: out if p.o_multiplier == 1 or not p.is_fp8 else out.float() / p.o_multiplier
