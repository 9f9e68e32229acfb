"""Rows of the bench as JSON lines, bench/results/<gpu>.jsonl: what DESIGN.md, 'Evidence', says of them. Times are in microseconds."""

from __future__ import annotations

import csv
import json
import re
import statistics
from collections.abc import Iterable
from pathlib import Path

from cases import GEMM_SIZE, NOT_PEERS, OURS, YARDSTICK, Case

RESULTS = Path(__file__).with_name("results")
FIELDS = [
    "run",
    "gpu",
    "date",
    "impl",
    "version",
    "kernel",
    "key",
    "grid",
    "case",
    "dtype",
    "out_dtype",
    "head_dim_qk",
    "head_dim_vo",
    "heads",
    "kv_heads",
    "batch",
    "tokens_q",
    "tokens_kv",
    "causal",
    "us",
    "us_spread",
    "host_us",
    "tflops",
    "rms_err",
    "max_err",
    "note",
    "ours_us",  # of a peer that was timed in a run after the others': Hopfill's time in that run
]
CLOCK_FIELDS = ["run", "date", "grid", "case", "samples", "sm_mhz_median", "sm_mhz_min", "sm_mhz_max", "watt_median", "watt_max", "celsius_max"]

Row = dict


def gpu_slug(name: str) -> str:
    """File name of a GPU: 'NVIDIA H100 80GB HBM3' is h100-80gb-hbm3."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-").removeprefix("nvidia-")


def row(case: Case, impl: str, **known) -> Row:
    """A row of a case with the fields that are known; `us` in `known` gives tflops."""
    unknown = set(known) - set(FIELDS)
    if unknown:
        raise ValueError(f"not fields of a row: {sorted(unknown)}")
    values = dict.fromkeys(FIELDS) | {f: getattr(case, f) for f in FIELDS if hasattr(case, f)} | {"impl": impl} | known
    if values["us"]:
        flops = 2 * GEMM_SIZE**3 if impl == YARDSTICK else case.flops
        values["tflops"] = round(flops / values["us"] / 1e6, 1)
    return {f: values[f] for f in FIELDS}


def summary(samples: list[float]) -> tuple[float, float]:
    """(median, spread) of the rounds; the spread is the distance between the quartiles."""
    if len(samples) < 2:
        return samples[0], 0.0
    low, middle, high = statistics.quantiles(samples, n=4, method="inclusive")
    return middle, high - low


def read(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()] if path.exists() else []


def write(path: Path, rows: Iterable[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text("".join(json.dumps(r) + "\n" for r in rows))
    part.replace(path)


def replace(old: list[Row], new: list[Row]) -> list[Row]:
    """A run replaces all rows of its (grid, dtype)."""
    replaced = {(r["grid"], r["dtype"]) for r in new}
    return [r for r in old if (r["grid"], r["dtype"]) not in replaced] + new


def point_of(row: Row) -> tuple[str, str, str]:
    return row["grid"], row["case"], row["dtype"]


def our_times(rows: list[Row]) -> dict[tuple[str, str, str], float]:
    return {point_of(r): r["us"] for r in rows if r["impl"] == OURS and r["us"]}


def add_later(old: list[Row], later: list[Row]) -> list[Row]:
    """Peers that a later run timed take the place of their rows, with our time of that run (`ours_us`); its other rows are left out."""
    own = our_times(later)
    timed = [r for r in later if r["impl"] not in NOT_PEERS and r["us"] and point_of(r) in own]
    taken = {(point_of(r), r["impl"]): r | {"ours_us": own[point_of(r)]} for r in timed}
    return [taken.get((point_of(r), r["impl"]), r) for r in old]


def comparable(rows: list[Row]) -> list[Row]:
    """Rows of peers that a later run timed as they compare with our time of the run that the others are of: what counts is the ratio within a run."""
    own = our_times(rows)

    def scaled(r: Row) -> Row:
        us = own.get(point_of(r))
        if not r.get("ours_us") or not us:
            return r
        factor = us / r["ours_us"]
        return r | {"us": r["us"] * factor, "us_spread": (r["us_spread"] or 0) * factor, "tflops": round(r["tflops"] / factor, 1), "ours_us": us}

    return [scaled(r) for r in rows]


def faults(rows: list[Row], cases: list[Case]) -> list[str]:
    """What is wrong with rows that should account for `cases`: fields, a missing or doubled row, neither `us` nor `note`."""
    found, seen = [], set()
    for r in rows:
        where = (r.get("grid"), r.get("case"), r.get("dtype"), r.get("impl"))
        if list(r) != FIELDS:
            found.append(f"{where}: fields {sorted(set(r) ^ set(FIELDS))} missing, unknown or out of order")
        if r.get("us") is None and not r.get("note"):
            found.append(f"{where}: neither us nor note")
        if where in seen:
            found.append(f"{where}: twice")
        seen.add(where)
    wanted = {(c.grid, c.case, c.dtype, impl) for c in cases for impl in c.implementations}
    found += [f"{where}: no row" for where in sorted(wanted - seen)]
    return found


def append_clocks(path: Path, rows: list[dict]) -> None:
    new = not path.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", newline="") as f:
        writer = csv.DictWriter(f, CLOCK_FIELDS)
        if new:
            writer.writeheader()
        writer.writerows(rows)
