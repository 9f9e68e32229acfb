"""The command `hopfill` on a GPU machine, from carried binaries: info, run, check, bench and demo, each looked at. Needs python3 and NumPy; a minute.

  tests/gpu/command_check.py [FOLDER]      FOLDER holds the binary hopfill and the libraries beside it (default: HOPFILL_GPU_PROGRAMS, then build/gpu)
  --backend cpu                            the same without a GPU

HOPFILL_NVRTC names the NVRTC library to use. Ends with 'N passed, N failed'; the status is 1 when one failed."""

import argparse
import importlib.util
import json
import os
import re
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
NUMPY_NAMES = {"F16": np.float16, "BF16": np.uint16, "F32": np.float32, "I32": np.int32}


class Command:
    def __init__(self, folder: Path, backend: str) -> None:
        self.binary = folder / "hopfill"
        self.backend = backend

    def call(self, *arguments: object, status: int = 0, timeout: int = 60) -> subprocess.CompletedProcess:
        done = subprocess.run([self.binary, *map(str, arguments)], capture_output=True, text=True, timeout=timeout)
        assert done.returncode == status, f"{arguments}: status {done.returncode}, not {status}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        return done


def bits(array: np.ndarray, kind: str) -> np.ndarray:
    """The numbers as a file holds them: bf16, which NumPy lacks, as its 16 bits, rounded to nearest even."""
    if kind != "BF16":
        return array.astype(NUMPY_NAMES[kind])
    wide = array.astype(np.float32).view(np.uint32)
    return ((wide + 0x7FFF + (wide >> 16 & 1)) >> 16).astype(np.uint16)


def numbers(array: np.ndarray, kind: str) -> np.ndarray:
    return (array.astype(np.uint32) << 16).view(np.float32).astype(np.float64) if kind == "BF16" else array.astype(np.float64)


def save(path: Path, tensors: dict[str, tuple[str, np.ndarray]]) -> None:
    """A safetensors file, as the format's page describes it: the package may not be here."""
    header, data = {}, b""
    for name, (kind, array) in tensors.items():
        header[name] = {"dtype": kind, "shape": array.shape, "data_offsets": [len(data), len(data) + array.nbytes]}
        data += array.tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def load(path: Path) -> dict[str, np.ndarray]:
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    out = {}
    for name, entry in json.loads(content[8 : 8 + length]).items():
        if name == "__metadata__":
            continue
        first, last = (8 + length + offset for offset in entry["data_offsets"])
        array = np.frombuffer(content[first:last], NUMPY_NAMES[entry["dtype"]]).reshape(entry["shape"])
        out[name] = numbers(array, entry["dtype"])
    return out


def float64(q: np.ndarray, k: np.ndarray, v: np.ndarray, causal: bool) -> tuple[np.ndarray, np.ndarray]:
    """o [seq, heads, dim] and lse [heads, seq] of one sequence."""
    k, v = (np.repeat(t, q.shape[1] // k.shape[1], axis=1) for t in (k, v))
    scores = np.einsum("ihd,jhd->hij", q, k) / np.sqrt(q.shape[2])
    if causal:
        scores[:, ~np.tri(q.shape[0], k.shape[0], k.shape[0] - q.shape[0], dtype=bool)] = -np.inf
    top = scores.max(-1, keepdims=True)
    p = np.exp(scores - top)
    return np.einsum("hij,jhd->ihd", p / p.sum(-1, keepdims=True), v), (np.log(p.sum(-1, keepdims=True)) + top)[..., 0]


def check_info(command: Command) -> None:
    info = json.loads(command.call("info", "--json").stdout)
    assert command.backend in info["backends"], info["backends"]
    assert info["kernels"] and all(k["spills"] == 0 for k in info["kernels"])
    print(f"  {info['gpu'] and info['gpu']['name']}, driver {info['driver']}, NVRTC {info['nvrtc']}")
    print(f"  {len(info['kernels'])} kernels, {sum(k['evidence'] is None for k in info['kernels'])} of them without evidence")
    if command.backend == "sm90":
        assert info["gpu"]["compute_capability"] == "9.0", info["gpu"]
        if "HOPFILL_NVRTC" in os.environ:
            assert os.environ["HOPFILL_NVRTC"] in info["nvrtc"], info["nvrtc"]
    assert "hopfill" in command.call("info").stdout


def check_run(command: Command) -> None:
    rng = np.random.default_rng(7)
    q_lens, kv_lens = [70, 0, 513, 1], [70, 9, 1025, 300]
    with tempfile.TemporaryDirectory() as folder:
        for kind, packed, heads, kv_heads, dim, causal in (
            ("F16", False, 8, 2, 128, True),
            ("BF16", False, 4, 4, 72, False),
            ("BF16", True, 8, 1, 64, True),
        ):
            rows_q, rows_kv = (sum(q_lens), sum(kv_lens)) if packed else (2 * 300, 2 * 400)
            shapes = {"q": (rows_q, heads, dim), "k": (rows_kv, kv_heads, dim), "v": (rows_kv, kv_heads, dim)}
            flat = {name: bits(rng.standard_normal(shape), kind) for name, shape in shapes.items()}
            shaped = flat if packed else {n: t.reshape(2, -1, *t.shape[1:]) for n, t in flat.items()}
            tensors = {n: (kind, t) for n, t in shaped.items()}
            starts_q, starts_kv = (np.cumsum([0, *lens], dtype=np.int32) for lens in ((q_lens, kv_lens) if packed else ([300, 300], [400, 400])))
            if packed:
                tensors |= {"cu_seqlens_q": ("I32", starts_q), "cu_seqlens_k": ("I32", starts_kv)}
            source = Path(folder, "in.safetensors")
            save(source, tensors)
            outputs = {}
            for backend in (command.backend, "cpu"):
                target = Path(folder, f"{backend}.safetensors")
                command.call("run", source, "-o", target, "--backend", backend, *["--causal"] * causal)
                outputs[backend] = load(target)
            mine, cpu = outputs[command.backend], outputs["cpu"]
            tolerance = 3e-2 if kind == "BF16" else 4e-3
            np.testing.assert_allclose(mine["o"], cpu["o"], rtol=0, atol=tolerance)
            np.testing.assert_allclose(mine["lse"], cpu["lse"], rtol=1e-5, atol=1e-4)
            worst = 0.0
            q, k, v = (numbers(flat[n], kind) for n in "qkv")
            o = mine["o"].reshape(rows_q, heads, dim)
            for s in range(len(starts_q) - 1):
                rows, keys = slice(starts_q[s], starts_q[s + 1]), slice(starts_kv[s], starts_kv[s + 1])
                if starts_q[s] == starts_q[s + 1]:
                    continue
                right, lse = float64(q[rows], k[keys], v[keys], causal)
                worst = max(worst, np.abs(o[rows] - right).max())
                np.testing.assert_allclose(mine["lse"][:, rows] if packed else mine["lse"][s], lse, rtol=1e-5, atol=1e-4)
            assert 0 < worst < tolerance, worst
            print(f"  {kind} {'packed' if packed else 'dense'} d{dim} h{heads}/{kv_heads}: largest error {worst:.2e} against float64")
        broken, nothing = Path(folder, "broken.safetensors"), Path(folder, "nothing.safetensors")
        broken.write_bytes(source.read_bytes()[:-100])
        refused = command.call("run", broken, "-o", nothing, "--backend", command.backend, status=2)
        assert refused.stderr.count("\n") == 1 and not nothing.exists(), refused.stderr


def check_check(command: Command) -> None:
    done = command.call("check", "--backend", command.backend, "--seed", 5, "--cases", 60)
    passed, failed = re.fullmatch(r"(\d+) passed, (\d+) failed", done.stdout.splitlines()[-1]).groups()
    skipped = re.search(r"^(\d+) skipped", done.stdout, re.MULTILINE)
    assert failed == "0" and int(passed) >= 40, done.stdout
    assert int(passed) + int(skipped[1] if skipped else 0) == 60, done.stdout
    print("  " + done.stdout.splitlines()[0])


def check_bench(command: Command) -> None:
    done = command.call("bench", "--backend", command.backend, "--grid", "headline", "--rounds", 3 if command.backend == "sm90" else 1)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == 7
    for row in rows:
        assert row["note"] is None and row["us"] > 0 and row["tflops"] > 0, row
        assert 0 < row["rms_err"] < 1e-2 and row["rms_err"] < row["max_err"] < 0.1, row
        errors = f"rms {row['rms_err']:.2e} max {row['max_err']:.2e}"
        print(f"  {row['case']:<26} {row['us']:10.1f} us {row['tflops']:7.3g} TFLOP/s  {errors}  {row['kernel']}")
    if command.backend == "sm90":
        assert all(row["key"] for row in rows)


def check_demo(command: Command) -> None:
    events = [json.loads(line) for line in command.call("demo", "--json").stdout.splitlines()]
    rows = [event for event in events if event["event"] == "row"]
    assert {command.backend, "cpu", "emulated"} <= {row["backend"] for row in rows}
    for row in rows:
        assert row["passed"], row
        print(f"  {row['backend']:<9} {row['case']:<16} {row['us']:12.1f} us  {row['tflops']:7.3g} TFLOP/s  bound used {row['bound_used']:.2f}")
    if not all(importlib.util.find_spec(name) for name in ("rich", "matplotlib")):
        print("  rich or matplotlib is not here: the table and the picture of tools/demo.py are not drawn")
        return
    drawn = subprocess.run([sys.executable, ROOT / "tools" / "demo.py", "--binary", command.binary], capture_output=True, text=True, timeout=60)
    assert drawn.returncode == 0 and "picture: " in drawn.stdout, drawn.stdout + drawn.stderr
    print("  " + drawn.stdout.splitlines()[-1])


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?", type=Path, default=Path(os.environ.get("HOPFILL_GPU_PROGRAMS") or ROOT / "build" / "gpu"))
    parser.add_argument("--backend", default="sm90")
    arguments = parser.parse_args()
    command = Command(arguments.folder.resolve(), arguments.backend)
    passed = failed = 0
    for check in (check_info, check_run, check_check, check_bench, check_demo):
        print(check.__name__.removeprefix("check_"), flush=True)
        start = time.monotonic()
        try:
            check(command)
            passed += 1
        except Exception:
            traceback.print_exc(file=sys.stdout)
            failed += 1
        print(f"  {time.monotonic() - start:.1f} s", flush=True)
    print(f"{passed} passed, {failed} failed")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
