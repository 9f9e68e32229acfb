#!/usr/bin/env python3
"""Errors of FP8 attention against float64 on dequantised inputs, ours and the peers', by kind of input and number of keys; and needles in haystacks.

accuracy.py [--results FOLDER]   each library in a process of its own; rows go to FOLDER/accuracy-<gpu>.jsonl (default bench/results)
accuracy.py --device cpu --keys 512,2048 --only hopfill

A row has `test`: "error" (rms_err, max_err, and `relative`, the RMS error over the output's RMS, of 64 seeded rows) or "needle" (`right` of `of`).
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import results
from cases import FP8_PEERS, OURS, OURS_VT, Case, make
from processes import PROCESS_OF

INPUTS = ("gaussian", "peaky", "rising", "large")
KEYS = (512, 2048, 4096, 16384, 65536)
HEAD_DIMS = (128, 64, 256)
HEADS = 4
NEEDLE_KEYS, NEEDLE_SEEDS, NEEDLE_ABOVE = 65536, 100, 3.0
FIELDS = ["gpu", "date", "impl", "version", "test", "input", "head_dim", "keys", "out_dtype", "rms_err", "max_err", "relative", "right", "of", "note"]


def case_of(head_dim: int, keys: int, heads: int = HEADS) -> Case:
    return make("accuracy", f"1x{keys}", "e4m3", head_dim, heads, heads, False, 1, keys)


def problem_of(kind: str, head_dim: int, keys: int, device: str):
    """Queries and keys that share a direction as the checker's inputs do (src/api/check_inputs.cpp); values are normal."""
    import torch
    from problem import Problem

    p = Problem(case_of(head_dim, keys), device)
    if kind == "gaussian":
        return p
    g = torch.Generator(device=device).manual_seed(7)

    def normal() -> torch.Tensor:
        return torch.randn(keys, HEADS, head_dim, device=device, generator=g)

    along = torch.randint(0, 2, (HEADS, head_dim), device=device, generator=g) * 2.0 - 1
    q, k = normal(), normal()
    if kind == "peaky":  # one key 20 above the rest
        peak = torch.randint(0, keys, (HEADS,), device=device, generator=g)
        q += along
        for h in range(HEADS):
            k[peak[h], h] += 20 / (p.scale * head_dim) * along[h]
    elif kind == "rising":  # by 40 from the first key to the last
        q = q / 2 + along
        k = k / 2 + torch.linspace(0, 40 / (p.scale * head_dim), keys, device=device)[:, None, None] * along
    else:  # logits of standard deviation 8000: the largest of many pass 30 000
        size = math.sqrt(8000 / (p.scale * math.sqrt(head_dim)))
        q, k = q * size, k * size
    p.q, p.k = (t.clamp(-448, 448).to(torch.float8_e4m3fn) for t in (q, k))
    return p


def needle_of(seed: int, head_dim: int, keys: int, device: str):
    """(problem, place of the needle by head). All logits are 0 but one key's, ln(keys) + 3; V is a code of its key: random signs."""
    import torch
    from problem import Problem

    heads, half = 2, head_dim // 2
    p = Problem(case_of(head_dim, keys, heads), device)
    g = torch.Generator(device=device).manual_seed(1000 + seed)
    signs = torch.randint(0, 2, (keys, heads, head_dim), device=device, generator=g) * 2.0 - 1
    place = torch.randint(0, keys, (heads,), device=device, generator=g)
    # Queries live in the first half of the channels and the other keys in the second.
    q, k = torch.zeros_like(signs), p.k.float()
    q[..., :half] = signs[:1, :, :half]
    k[..., :half] = 0
    step = 2.0 ** (math.floor(math.log2(needle_size(p.scale, half, keys))) - 3)  # e4m3 has three bits after the first
    size = math.ceil(needle_size(p.scale, half, keys) / step) * step
    for h in range(heads):
        k[place[h], h, :half] = size * q[0, h, :half]
        k[place[h], h, half:] = 0
    p.v = (torch.randint(0, 2, (keys, heads, head_dim), device=device, generator=g) * 2.0 - 1).to(torch.float8_e4m3fn)
    p.q, p.k = q.to(torch.float8_e4m3fn), k.to(torch.float8_e4m3fn)
    return p, place


def needle_size(scale: float, channels: int, keys: int) -> float:
    return (math.log(keys) + NEEDLE_ABOVE) / (scale * channels)


def read_back(p, place, output) -> bool:
    """Whether every sampled row of the output spells the needle's code."""
    (rows,) = p.sampled_rows()
    found = output[rows].float()
    code = p.v.float()[place, range(len(place))]
    return bool((found.sign() == code).all() and (found.abs() > 0.5).all())


def measure(name: str, options: argparse.Namespace, emit) -> None:
    """Rows of one implementation."""
    import torch
    from peers import IMPLEMENTATIONS, Unsupported
    from problem import name_of
    from worker import one_line

    gpu = torch.cuda.get_device_name(0) if options.device == "cuda" else "cpu"
    date = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    common = {"gpu": gpu, "date": date, "impl": name}
    try:
        common["version"] = IMPLEMENTATIONS[name].setup()
    except BaseException as error:  # a broken peer may raise anything
        emit(common | {"test": "error", "note": f"not available: {one_line(error)}"})
        return

    def run(p):
        call, output = IMPLEMENTATIONS[name].build(p)
        call()
        if options.device == "cuda":
            torch.cuda.synchronize()
        return output()

    def errors(kind: str, head_dim: int, keys: int) -> dict:
        p = problem_of(kind, head_dim, keys, options.device)
        rows = p.sampled_rows()
        reference = p.reference(rows)
        # An e4m3 output gets a multiplier that uses its range.
        p.o_multiplier = 2.0 ** math.floor(math.log2(224 / max(r.abs().max().item() for r in reference)))
        rms, largest, relative = p.errors(run(p), rows, reference)
        found = {"rms_err": rms, "max_err": largest, "relative": relative} if math.isfinite(relative) else {"note": "not finite"}
        return {"out_dtype": name_of(p.stored_dtype)} | found

    until = time.monotonic() + options.budget
    for test in tests_of(options):
        row = common | test
        try:
            if time.monotonic() > until:
                emit(row | {"note": f"not run: the time budget of {options.budget:.0f} s was used up"})
            elif test["test"] == "needle":
                emit(row | {"right": needles_found(name, options, run)})
            else:
                emit(row | errors(test["input"], test["head_dim"], test["keys"]))
        except Unsupported as reason:
            emit(row | {"note": str(reason)})
        except Exception as error:
            emit(row | {"note": one_line(error)})
            if "CUDA error" in str(error):  # the context is lost
                return


def tests_of(options: argparse.Namespace) -> list[dict]:
    """All lengths and the needle at the first head dimension; the shortest, 4k and the longest at the others."""
    first, *others = options.head_dims
    sizes = [(first, keys) for keys in options.keys]
    more = [(d, keys) for d in others for keys in options.keys if keys in (options.keys[0], 4096, options.keys[-1])]
    needle = {"test": "needle", "head_dim": first, "keys": options.needle_keys, "of": options.seeds}

    def errors(sizes: list[tuple[int, int]]) -> list[dict]:
        return [{"test": "error", "input": kind, "head_dim": d, "keys": keys} for d, keys in sizes for kind in INPUTS]

    return [*errors(sizes), needle, *errors(more)]


def needles_found(name: str, options: argparse.Namespace, run) -> int:
    from peers import IMPLEMENTATIONS

    right, built = 0, None
    for seed in range(options.seeds):
        p, place = needle_of(seed, options.head_dims[0], options.needle_keys, options.device)
        if name != "cudnn-fe":
            right += read_back(p, place, run(p))
            continue
        # Its graph takes a second to build and reads these tensors: made once, refilled.
        built = built or (p, IMPLEMENTATIONS[name].build(p))
        for old, new in zip((built[0].q, built[0].k, built[0].v), (p.q, p.k, p.v), strict=True):
            old.copy_(new)
        call, output = built[1]
        call()
        right += read_back(p, place, output())
    return right


def child(options: argparse.Namespace) -> None:
    # Libraries print: the rows keep the first standard output to themselves.
    rows = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    for name in options.only:
        measure(name, options, lambda row: rows.write(json.dumps({f: row.get(f) for f in FIELDS}) + "\n"))


def main(argv: list[str]) -> int:
    def numbers(text: str) -> list[int]:
        return [int(n) for n in text.split(",")]

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=results.RESULTS)
    parser.add_argument("--only", type=lambda text: text.split(","), default=[OURS, OURS_VT, *FP8_PEERS])
    parser.add_argument("--keys", type=numbers, default=list(KEYS))
    parser.add_argument("--head-dims", type=numbers, default=list(HEAD_DIMS))
    parser.add_argument("--needle-keys", type=int, default=NEEDLE_KEYS)
    parser.add_argument("--seeds", type=int, default=NEEDLE_SEEDS)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--budget", type=float, default=600.0, metavar="SECONDS", help="for each library; what is left out gets rows that say so")
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds for each process; they work at the same time")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.child:
        child(options)
        return 0
    groups: dict[str, list[str]] = {}
    for name in options.only:
        groups.setdefault(PROCESS_OF[name], []).append(name)
    started = []
    for names in groups.values():
        passed = ["--only", ",".join(names), "--keys", ",".join(map(str, options.keys)), "--head-dims", ",".join(map(str, options.head_dims))]
        passed += ["--needle-keys", str(options.needle_keys), "--seeds", str(options.seeds), "--device", options.device]
        passed += ["--budget", str(options.budget)]
        started.append((names, subprocess.Popen([sys.executable, __file__, "--child", *passed], stdout=subprocess.PIPE, text=True)))
    rows = []
    for names, process in started:
        try:
            text, _ = process.communicate(timeout=options.timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            text, _ = process.communicate()
        found = [json.loads(line) for line in text.splitlines()]
        rows += found
        print(f"{', '.join(names)}: {len(found)} rows, exit status {process.returncode}", flush=True)
    if not rows:
        return 1
    path = options.results / f"accuracy-{results.gpu_slug(rows[0]['gpu'])}.jsonl"
    results.write(path, rows)
    import accuracy_report

    print(f"{path}\n{accuracy_report.section(rows)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
