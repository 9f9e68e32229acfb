"""A case's tensors on the GPU, and errors against float64. Equal in every process: inputs come from one seed."""

from __future__ import annotations

import math

import torch
from cases import Case

SEED = 1234
ROWS_PER_SEQUENCE = 64  # reference rows a sequence and head: first, last and seeded ones
TORCH_DTYPES = {"bf16": torch.bfloat16, "f16": torch.float16, "e4m3": torch.float8_e4m3fn}


def name_of(dtype: torch.dtype) -> str:
    return next(name for name, d in TORCH_DTYPES.items() if d == dtype)


def widened(t: torch.Tensor) -> torch.Tensor:
    """float64 of any tensor here; e4m3 by way of float32, which is exact."""
    return t.float().double()


class Problem:
    """q, k, v are [tokens, heads, head_dim]; dense() gives them as [batch, seq, heads, head_dim]."""

    def __init__(self, case: Case, device: str = "cuda"):
        self.case, self.device = case, device
        generator = torch.Generator(device=device).manual_seed(SEED)

        def normal(tokens: int, heads: int, d: int, dtype: str) -> torch.Tensor:
            return torch.randn(tokens, heads, d, device=device, generator=generator).to(TORCH_DTYPES[dtype])

        q_dtype, _, kv_dtype = case.dtype.partition("x")  # bf16xe4m3: of q, and of k and v
        self.q = normal(case.tokens_q, case.heads, case.head_dim_qk, q_dtype)
        self.k = normal(case.tokens_kv, case.kv_heads, case.head_dim_qk, kv_dtype or q_dtype)
        self.v = normal(case.tokens_kv, case.kv_heads, case.head_dim_vo, kv_dtype or q_dtype)
        sequences = case.sequences()
        self.lengths_q, self.lengths_kv = [q for q, _ in sequences], [k for _, k in sequences]
        self.max_q, self.max_kv = max(self.lengths_q), max(self.lengths_kv)
        self.cu_q, self.cu_kv = self._offsets(self.lengths_q), self._offsets(self.lengths_kv)
        self.seq_q, self.seq_kv = self._int32(self.lengths_q), self._int32(self.lengths_kv)
        self.scale = 1 / math.sqrt(case.head_dim_qk)
        self.o_multiplier, self.stored_dtype = 1.0, TORCH_DTYPES[case.out_dtype]  # of an output in e4m3, which takes it away again

    def _int32(self, values: list[int]) -> torch.Tensor:
        return torch.tensor(values, device=self.device, dtype=torch.int32)

    def _offsets(self, lengths: list[int]) -> torch.Tensor:
        return self._int32([sum(lengths[:i]) for i in range(len(lengths) + 1)])

    @property
    def is_dense(self) -> bool:
        return self.case.layout == "dense"

    def dense(self) -> list[torch.Tensor]:
        return [t.view(self.case.batch, -1, t.shape[1], t.shape[2]) for t in (self.q, self.k, self.v)]

    def new_output(self, dtype: torch.dtype | None = None) -> torch.Tensor:
        shape = (self.case.tokens_q, self.case.heads, self.case.head_dim_vo)
        return torch.empty(shape, device=self.device, dtype=dtype or TORCH_DTYPES[self.case.out_dtype])

    @property
    def is_fp8(self) -> bool:
        return self.q.dtype == torch.float8_e4m3fn

    def multipliers(self) -> list[torch.Tensor]:
        """Of q, k and v by head, as an FP8 caller has them: the inputs here are E4M3 as drawn, so all are 1."""
        heads = (self.case.heads, self.case.kv_heads, self.case.kv_heads)
        return [torch.ones(n, device=self.device, dtype=torch.float32) for n in heads]

    def sampled_rows(self) -> list[torch.Tensor]:
        """Query rows of each sequence, by position within it."""
        generator = torch.Generator().manual_seed(SEED)
        rows = []
        for length in self.lengths_q:
            if length <= ROWS_PER_SEQUENCE:
                rows.append(torch.arange(length))
                continue
            drawn = torch.randint(0, length, (ROWS_PER_SEQUENCE - 2,), generator=generator)
            rows.append(torch.cat([torch.tensor([0, length - 1]), drawn]))
        return [r.to(self.device) for r in rows]

    def reference(self, rows: list[torch.Tensor]) -> list[torch.Tensor]:
        """float64 attention of those rows, [rows, heads, head_dim] a sequence."""
        case, out, at_q, at_k = self.case, [], 0, 0
        group = case.heads // case.kv_heads
        for length_q, length_kv, r in zip(self.lengths_q, self.lengths_kv, rows, strict=True):
            k, v = widened(self.k[at_k : at_k + length_kv]), widened(self.v[at_k : at_k + length_kv])
            q = widened(self.q[at_q : at_q + length_q])[r].unflatten(1, (case.kv_heads, group))
            logits = torch.einsum("rhgd,khd->hgrk", q, k) * self.scale
            if case.causal:
                hidden = torch.arange(length_kv, device=self.device)[None, :] > (r + length_kv - length_q)[:, None]
                logits.masked_fill_(hidden, float("-inf"))
            out.append(torch.einsum("hgrk,khd->rhgd", torch.softmax(logits, -1), v).flatten(1, 2))
            at_q, at_k = at_q + length_q, at_k + length_kv
        return out

    def errors(self, output: torch.Tensor, rows: list[torch.Tensor], reference: list[torch.Tensor]) -> tuple[float, float, float]:
        """(RMS error, largest error, RMS error relative to the reference's RMS) of the sampled rows; not finite where the output is not."""
        at, parts = 0, []
        for length, r in zip(self.lengths_q, rows, strict=True):
            parts.append(widened(output[at : at + length])[r])
            at += length
        reference_rows = torch.cat(reference)
        difference = torch.cat(parts) - reference_rows
        rms = difference.square().mean().sqrt().item()
        largest = difference.abs().max().item() if not math.isnan(rms) else math.nan
        return rms, largest, rms / reference_rows.square().mean().sqrt().item()
