"""The cpu backend beside PyTorch's scaled_dot_product_attention on this machine's cores: optional, and the one bench that needs PyTorch.

    python3 -m venv torch-venv && torch-venv/bin/pip install torch==2.15.0 numpy
    torch-venv/bin/python bench/cpu_vs_torch.py [--record]

Both sides compute the same cases on as many threads, in alternating rounds; the median of the rounds counts. --record writes the rows to
bench/results/cpu.jsonl.
"""

import argparse
import datetime
import json
import os
import platform
import subprocess
import tempfile
import time
from pathlib import Path

import torch
from results import FIELDS, RESULTS, read, replace, summary, write

ROOT = Path(__file__).resolve().parent.parent
GRID = "cpu"


def cases() -> list[dict]:
    found = []
    for tokens, heads, causal in [(2048, 8, False), (2048, 8, True), (512, 32, True)]:
        found.append(
            {
                "grid": GRID,
                "case": f"1x{tokens} h{heads}/{heads} d128{' causal' if causal else ''}",
                "dtype": "f32",
                "out_dtype": "f32",
                "head_dim_qk": 128,
                "head_dim_vo": 128,
                "heads": heads,
                "kv_heads": heads,
                "batch": 1,
                "tokens_q": tokens,
                "tokens_kv": tokens,
                "causal": causal,
                "layout": "dense",
                "implementations": ["hopfill", "torch"],
            }
        )
    return found


def run_hopfill(binary: Path, wanted: list[dict]) -> dict[str, dict]:
    with tempfile.NamedTemporaryFile("w", suffix=".json") as grids:
        json.dump({"cases": wanted}, grids)
        grids.flush()
        command = [binary, "bench", "--backend", "cpu", "--grids", grids.name, "--grid", GRID, "--dtype", "f32", "--rounds", "3"]
        lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return {row["case"]: row for row in map(json.loads, lines)}


def run_torch(case: dict) -> float:
    """Microseconds: the median of three calls after one to warm up."""
    shape = (case["batch"], case["heads"], case["tokens_q"], case["head_dim_qk"])
    q, k, v = (torch.randn(shape) for _ in range(3))
    times = []
    for _ in range(4):
        start = time.perf_counter()
        torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=case["causal"])
        times.append((time.perf_counter() - start) * 1e6)
    return sorted(times[1:])[1]


def cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    return f"{model}, {len(os.sched_getaffinity(0))} cores"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--binary", type=Path, default=ROOT / "build" / "hopfill")
    parser.add_argument("--record", action="store_true", help="write the rows to bench/results/cpu.jsonl")
    args = parser.parse_args()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    wanted = cases()
    samples: dict[tuple[str, str], list[float]] = {}
    ours: dict[str, dict] = {}
    for _ in range(args.rounds):
        ours = run_hopfill(args.binary, wanted)
        for case in wanted:
            samples.setdefault(("hopfill-cpu", case["case"]), []).append(ours[case["case"]]["us"])
            samples.setdefault(("torch", case["case"]), []).append(run_torch(case))
    date = datetime.date.today().isoformat()
    rows = []
    for case in wanted:
        flops = 4 * case["batch"] * case["heads"] * case["tokens_q"] * case["tokens_kv"] * case["head_dim_qk"] / (2 if case["causal"] else 1)
        for impl, version in [("hopfill-cpu", ours[case["case"]]["version"]), ("torch", torch.__version__)]:
            us, spread = summary(samples[impl, case["case"]])
            known = {
                "run": f"{date}-{GRID}",
                "gpu": cpu_name(),
                "date": date,
                "impl": impl,
                "version": version,
                "us": round(us, 1),
                "us_spread": round(spread, 1),
                "tflops": round(flops / us / 1e6, 4),
            }
            rows.append({field: known.get(field, case.get(field)) for field in FIELDS})
        ratio = rows[-1]["us"] / rows[-2]["us"]
        print(f"{case['case']}: {rows[-2]['us'] / 1e3:.1f} ms, PyTorch {rows[-1]['us'] / 1e3:.1f} ms, {ratio:.2f} of PyTorch's speed")
    if args.record:
        path = RESULTS / "cpu.jsonl"
        write(path, replace(read(path), rows))


if __name__ == "__main__":
    main()
