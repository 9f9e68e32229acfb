"""The bench's grids: every (grid, case, implementation) that a run must account for. `python bench/cases.py` writes bench/grids.json.

Dense cases have equal lengths, tokens / batch; packed ones list theirs. Lengths of random batches are drawn once, here, and are part of the file.
"""

from __future__ import annotations

import json
import math
import random
from dataclasses import asdict, dataclass, field
from pathlib import Path

GRIDS_JSON = Path(__file__).with_name("grids.json")

# What can be timed. `hopfill` is ours, `gemm` the yardstick of each round, `empty` the floor of a launch; the rest are the peers.
OURS, YARDSTICK, FLOOR = "hopfill", "gemm", "empty"
PEERS = ("cudnn", "fa2", "flashinfer-fa2", "flashinfer-fa3", "fmha_v2", "cudnn-fe", "fa3", "fa3-vllm", "fa4")
# Other ways to call a peer, each with that peer: faster on short prompts only, or where few heads leave SMs without work.
VARIANTS = {
    "flashinfer-fa2-nosplit": "flashinfer-fa2",
    "flashinfer-fa2-single": "flashinfer-fa2",
    "flashinfer-fa3-single": "flashinfer-fa3",
    "fmha_v2-packed": "fmha_v2",
    "fa3-split": "fa3",
    "fa3-vllm-split": "fa3-vllm",
}
SHORT_PEERS = ("flashinfer-fa2-nosplit", "flashinfer-fa2-single", "flashinfer-fa3-single", "fmha_v2-packed")
FEW_PEERS = ("flashinfer-fa2-nosplit", "fa3-split")
# FP8: the peers that take it; ours with V given transposed; and our BF16 kernel on the same problem.
FP8_PEERS = ("flashinfer-fa3", "fmha_v2", "fa3-vllm", "cudnn-fe")
FP8_SHORT_PEERS = ("flashinfer-fa3-single", "fmha_v2-packed")
FP8_FEW_PEERS = ("fa3-vllm-split",)
OURS_VT, OURS_BF16 = "hopfill-vt", "hopfill-bf16"
NOT_PEERS = (OURS, OURS_VT, OURS_BF16, YARDSTICK, FLOOR)

MIXED_LENGTHS = (64, 300, 1500, 4096, 700, 2048, 100, 3000)
GEMM_SIZE = 8192


@dataclass(frozen=True)
class Case:
    grid: str
    case: str  # the same string for every implementation and dtype
    dtype: str
    out_dtype: str
    head_dim_qk: int
    head_dim_vo: int
    heads: int
    kv_heads: int
    batch: int
    tokens_q: int
    tokens_kv: int
    causal: bool
    layout: str  # dense or packed
    lengths_q: tuple[int, ...] = ()  # packed only
    lengths_kv: tuple[int, ...] = ()
    implementations: tuple[str, ...] = field(default=(), compare=False)

    def sequences(self) -> list[tuple[int, int]]:
        """(queries, keys) of each sequence."""
        if self.layout == "packed":
            return list(zip(self.lengths_q, self.lengths_kv, strict=True))
        return [(self.tokens_q // self.batch, self.tokens_kv // self.batch)] * self.batch

    @property
    def label(self) -> str:
        """What of the name says lengths: "1x2k" of "1x2k h8/1 hd128 causal"."""
        return self.case.rsplit(" ", 3)[0]

    @property
    def kind(self) -> str:
        """The rest of the name: heads, head dimension, mask."""
        return " ".join(self.case.rsplit(" ", 3)[1:])

    @property
    def flops(self) -> int:
        """4 * heads * s_q * s_kv * d summed over the sequences, without the pairs that a causal mask hides (half of them when s_q = s_kv)."""
        pairs = sum(q * k - (q * q / 2 if self.causal else 0) for q, k in self.sequences())
        return int(2 * self.heads * (self.head_dim_qk + self.head_dim_vo) * pairs)

    @property
    def seq(self) -> int:
        """The length of dense sequences; the longest of packed ones."""
        return max(q for q, _ in self.sequences())


def tokens_name(tokens: int) -> str:
    return f"{tokens // 1024}k" if tokens >= 1024 and tokens % 1024 == 0 else str(tokens)


def shape_name(batch: int, seq: int) -> str:
    return f"{batch}x{tokens_name(seq)}"


def out_dtype_of(dtype: str) -> str:
    """FP8 writes bf16, as its peers do; cuDNN, which writes e4m3 only, says so in its rows."""
    return "f16" if dtype == "f16" else "bf16"


def implementations_of(grid: str, dtype: str, dense: bool) -> tuple[str, ...]:
    if grid == "few":
        return (OURS, *(PEERS + FEW_PEERS if dtype == "bf16" else FP8_PEERS + FP8_FEW_PEERS), YARDSTICK)
    short = grid == "headline"
    if dtype == "bf16":
        return (OURS, *PEERS, *((*SHORT_PEERS, FLOOR) if short else ()), YARDSTICK)
    if dtype == "e4m3":
        ours = (OURS, OURS_VT) if dense else (OURS,)
        return (*ours, *((OURS_BF16,) if short else ()), *FP8_PEERS, *((*FP8_SHORT_PEERS, FLOOR) if short else ()), YARDSTICK)
    if dtype == "bf16xe4m3":
        return (OURS, OURS_BF16, YARDSTICK)
    return (OURS,)  # FP16 is compared with our own BF16, the peers with our BF16


def make(
    grid: str, label: str, dtype: str, d: int, heads: int, kv_heads: int, causal: bool, batch: int, seq: int, lengths=(), keys: int | None = None
) -> Case:
    """As many keys as queries, unless `keys` says how many each dense sequence has."""
    tokens = sum(lengths) if lengths else batch * seq
    name = f"{label} h{heads}/{kv_heads} hd{d} {'causal' if causal else 'full'}"
    return Case(
        grid,
        name,
        dtype,
        out_dtype_of(dtype),
        d,
        d,
        heads,
        kv_heads,
        batch,
        tokens,
        batch * keys if keys else tokens,
        causal,
        "packed" if lengths else "dense",
        tuple(lengths),
        tuple(lengths),
        implementations_of(grid, dtype, not lengths),
    )


def random_lengths(seed: int, count: int = 32, low: int = 32, high: int = 4096) -> tuple[int, ...]:
    """Log-uniform, as prompt lengths are: many short ones, few long ones."""
    rng = random.Random(seed)
    return tuple(round(math.exp(rng.uniform(math.log(low), math.log(high)))) for _ in range(count))


def headline(dtype: str) -> list[Case]:
    """Llama-2-7B: one to four short prompts."""
    shapes = ((1, 128), (1, 256), (1, 512), (2, 512), (4, 512), (1, 1024), (1, 2048))
    return [make("headline", f"{b}x{s}", dtype, 128, 32, 32, True, b, s) for b, s in shapes]


def few(dtype: str) -> list[Case]:
    """What a GPU of a tensor-parallel group sees: few heads, and one prompt, or a chunk of queries that ends a longer sequence."""
    if dtype not in ("bf16", "e4m3"):
        return []
    k = 1024
    square = ((2 * k, 2 * k), (4 * k, 4 * k), (8 * k, 8 * k))
    shapes = {8: (*square, (512, 8 * k), (512, 32 * k), (2 * k, 32 * k), (128, 16 * k)), 4: (*square, (2 * k, 16 * k))}

    def case(heads: int, queries: int, keys: int) -> Case:
        label = shape_name(1, queries) if queries == keys else f"{tokens_name(queries)} of {tokens_name(keys)}"
        return make("few", label, dtype, 128, heads, 1, True, 1, queries, keys=keys)

    return [case(heads, *shape) for heads, of in shapes.items() for shape in of]


def throughput(dtype: str) -> list[Case]:
    """16k tokens in every split; width 2048, and GQA of 32/8 heads."""
    cases = []
    for d in (128, 64, 256):
        for heads, kv_heads in ((2048 // d, 2048 // d), (32, 8)):
            for causal in (True, False):
                shapes = [(32, 512), (16, 1024), (8, 2048), (4, 4096), (2, 8192), (1, 16384)]
                if d == 128 and causal:
                    shapes += [(1, 32768), (1, 65536)]
                cases += [make("throughput", shape_name(b, s), dtype, d, heads, kv_heads, causal, b, s) for b, s in shapes]
    return cases


def ragged(dtype: str) -> list[Case]:
    batches = [("mixed8", MIXED_LENGTHS)] + [(f"random32-{seed}", random_lengths(seed)) for seed in (1, 2, 3)]
    return [make("ragged", label, dtype, 128, 32, 8, True, len(lengths), max(lengths), lengths) for label, lengths in batches]


def mixed(dtype: str) -> list[Case]:
    """BF16 queries, E4M3 keys and values: long sequences."""
    return [c for c in throughput(dtype) if c.seq in (4096, 16384) and c.heads * c.head_dim_qk == 2048]


GRIDS = {"headline": headline, "few": few, "ragged": ragged, "throughput": throughput}
DTYPES = ("bf16", "f16", "e4m3", "bf16xe4m3")


def all_cases() -> list[Case]:
    cases = [case for dtype in DTYPES[:3] for grid in GRIDS.values() for case in grid(dtype)]
    return cases + mixed("bf16xe4m3")


def to_json(cases: list[Case]) -> str:
    def entry(case: Case) -> str:
        fields = {k: v for k, v in asdict(case).items() if not (k.startswith("lengths") and not v)}
        return "    " + json.dumps(fields)

    return '{\n  "cases": [\n' + ",\n".join(map(entry, cases)) + "\n  ]\n}\n"


def load(path: Path = GRIDS_JSON) -> list[Case]:
    def case(fields: dict) -> Case:
        return Case(**{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()})

    return [case(fields) for fields in json.loads(path.read_text())["cases"]]


if __name__ == "__main__":
    GRIDS_JSON.write_text(to_json(all_cases()))
    print(f"{GRIDS_JSON}: {len(all_cases())} cases")
