"""Finds the numbers of src/plan/cost_model.cpp from bench/results and from runs of every tile, and prints its table. Needs scipy, which nothing else
here does.

Kernels without a measurement are interpolated between those beside them, and marked. Those that transpose V once, beside their jobs (`_turned`), have
the terms of the kernel that transposes it, and a factor: the median of what their steps take of its."""

from __future__ import annotations

import argparse
import json
import math
import re
import statistics
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import least_squares

SMS = 132  # of an H100 and an H200
KERNEL = re.compile(r"(prefill_short|prefill_folded|prefill_fp8_folded|prefill_fp8|prefill_mixed|prefill)_\w+?_hd(\d+)_\w+?_m(\d+)n(\d+)s")
BYTES = {"bf16": 2, "f16": 2, "e4m3": 1}


@dataclass(frozen=True)
class Point:
    """A measurement; blocks[i] is the number of KV blocks of job i of a sequence."""

    name: str
    kernel: tuple[str, int, int, int]  # family, head_dim, tile_n, consumers
    causal: bool
    blocks: tuple[int, ...]
    sequences: int  # times heads
    bytes: float
    us: float


def point(row: dict) -> Point:
    found = KERNEL.match(row["kernel"])
    family, head_dim, tile_m, tile_n = found[1], int(found[2]), int(found[3]), int(found[4])
    tokens = row["tokens_q"] // row["batch"]
    ends = [min((tile + 1) * tile_m, tokens) if row["causal"] else tokens for tile in range(math.ceil(tokens / tile_m))]
    if family.endswith("_folded"):  # a job reads what the later of its two tiles of 64 rows sees
        ends = [min((math.ceil(tokens / 64) - job) * 64, tokens) for job in range(math.ceil(tokens / tile_m))]
    q_bytes = BYTES[row["dtype"]] + BYTES[row["out_dtype"]]
    moved = row["head_dim_qk"] * (q_bytes * row["tokens_q"] * row["heads"] + 2 * BYTES[row["dtype"]] * row["tokens_kv"] * row["kv_heads"])
    consumers = 2 if family == "prefill_short" else tile_m // 64
    blocks = tuple(math.ceil(end / tile_n) for end in ends)
    return Point(row["case"], (family, head_dim, tile_n, consumers), row["causal"], blocks, row["batch"] * row["heads"], moved, row["us"])


TURNED = "_turned"
TURNING_US, TURNING_BYTES_PER_US = 3.0, 8.0e6  # of cost_model.cpp
NEAR = 1.2  # of the best tile's time: what takes longer need not be modelled well
PROBLEM = re.compile(r"(\w+) d(\d+) h(\d+)/(\d+) b(\d+) s(\d+)( causal)?$")


def row_of_tile(tile: dict) -> dict:
    """hopfill_gpu_bench's line as a row of bench/results."""
    dtype, head_dim, heads, kv_heads, batch, seq, causal = PROBLEM.match(tile["problem"]).groups()
    tokens = int(batch) * int(seq)
    return {
        "case": tile["problem"],
        "kernel": tile["kernel"],
        "us": tile["us"],
        "dtype": dtype,
        "out_dtype": "bf16",
        "causal": bool(causal),
        "batch": int(batch),
        "tokens_q": tokens,
        "tokens_kv": tokens,
        "heads": int(heads),
        "kv_heads": int(kv_heads),
        "head_dim_qk": int(head_dim),
    }


def turned_factors(tiles: list[dict]) -> dict[tuple[str, int, int, int], float]:
    """By kernel, the time of one that reads V turned, less the copy, over that of its twin."""
    us = {(t["problem"], t["kernel"], t.get("programmatic", False)): t["us"] for t in tiles}
    factors: dict[tuple[str, int, int, int], list[float]] = {}
    for t in tiles:
        twin = us.get((t["problem"], t["kernel"].removesuffix(TURNED), t.get("programmatic", False)))
        row = row_of_tile(t)
        if not t["kernel"].endswith(TURNED) or twin is None or row["tokens_q"] // row["batch"] < 4096:
            continue  # of shorter prompts the copy is too large a part
        copy = TURNING_US + 2 * row["tokens_kv"] * row["kv_heads"] * row["head_dim_qk"] / TURNING_BYTES_PER_US
        factors.setdefault(point(row).kernel, []).append((t["us"] - copy) / twin)
    return {kernel: statistics.median(f) for kernel, f in factors.items()}


def model(p: Point, launch: float, bandwidth: float, job: float, step: float, full: float) -> float:
    costs = [job + step * (1 if p.causal else full) * n for n in p.blocks]
    compute = max(costs)
    if len(costs) * p.sequences > SMS:
        waves = math.ceil(len(costs) * p.sequences / SMS)
        compute = max(compute, sum(costs) * p.sequences / SMS + min(costs) / 2) if p.causal else waves * compute
    return launch + (compute**8 + (p.bytes / bandwidth / 1e6) ** 8) ** (1 / 8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, nargs="?", default=Path(__file__).parent / "results/h200.jsonl")
    parser.add_argument("--tiles", type=Path, default=Path(__file__).parent / "limits/h200-tiles.jsonl", help="of hopfill_gpu_bench --variants")
    args = parser.parse_args()
    rows = [json.loads(line) for line in args.results.read_text().splitlines()]
    measured = [json.loads(line) for line in args.tiles.read_text().splitlines()]
    turned = turned_factors(measured)
    tiles = [point(row_of_tile(t)) for t in measured if not t["kernel"].endswith(TURNED)]
    best: dict[str, float] = {}
    for t in tiles:
        best[t.name] = min(t.us, best.get(t.name, math.inf))
    near = [t for t in tiles if t.us < NEAR * best[t.name]]
    ours = [r for r in rows if r["impl"] == "hopfill" and r["dtype"] in ("bf16", "e4m3") and r["us"] and not r["kernel"].endswith(TURNED)]
    points = [point(r) for r in ours if r["grid"] in ("headline", "throughput")] + near
    kernels = sorted({p.kernel for p in points})

    def terms(x: np.ndarray, kernel: tuple[str, int, int, int]) -> tuple[float, ...]:
        i = 2 + 3 * kernels.index(kernel)
        return (x[0], x[1], *x[i : i + 3])

    def residuals(x: np.ndarray) -> list[float]:
        # A kernel that was measured with one mask only keeps a factor near 1.
        prior = [0.02 * (f - 0.97) / 0.03 for f in x[4::3]]
        return [math.log(model(p, *terms(x, p.kernel)) / p.us) for p in points] + prior

    start = [1.5, 2.4] + [v for k in kernels for v in (1.0, 1.6 * k[1] / 128 * k[2] / 128 * k[3] / 2, 0.97)]
    low, high = [0.5, 1.5] + [0.05, 0.05, 0.7] * len(kernels), [5, 3.5] + [6, 6, 1.3] * len(kernels)
    fit = least_squares(residuals, start, bounds=(low, high))
    errors = {p.name + " " + "_".join(map(str, p.kernel)): math.exp(r) - 1 for p, r in zip(points, fit.fun, strict=False)}
    print(f"launch {fit.x[0]:.2f} us, {fit.x[1]:.2f} TB/s; {len(points)} points")
    for kernel in kernels:
        job, step, full = terms(fit.x, kernel)[2:]
        factor = f", {turned[kernel]:.3f}" if kernel in turned else ""
        print(f"    {{Family::{kernel[0]}, {kernel[1]}, {kernel[2]}, {kernel[3]}, {job:.2f}, {step:.3f}, {full:.3f}{factor}}},")
    # What the model's choice costs where every tile was measured.
    of_problem: dict[str, list[tuple[float, float]]] = {}
    for p in tiles:
        if p.kernel not in kernels or (p.kernel[0].endswith("_folded") and len(p.blocks) * p.sequences > SMS):
            continue  # of more than one wave the planner folds none
        of_problem.setdefault(p.name, []).append((model(p, *terms(fit.x, p.kernel)), p.us))
    for name, both in of_problem.items():
        loss = min(both)[1] / min(us for _, us in both) - 1
        if loss > 0.02:
            print(f"{loss:+7.1%}  lost by the choice for {name}")
    for name, error in sorted(errors.items(), key=lambda e: -abs(e[1]))[:8]:
        print(f"{error:+7.1%}  {name}")


if __name__ == "__main__":
    main()
