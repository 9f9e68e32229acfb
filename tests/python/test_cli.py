"""The command's other subcommands: output, exit statuses, one-line errors."""

import json
import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BINARY = Path(os.environ.get("HOPFILL_BINARY", ROOT / "build" / "hopfill"))


def hopfill(*arguments: object, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run([BINARY, *map(str, arguments)], capture_output=True, text=True, timeout=300, env={**os.environ, **environment})


BAD_USAGE = [
    (),
    ("fly",),
    ("run",),
    ("run", "in.safetensors"),
    ("check", "--backend", "tpu"),
    ("check", "--cases", "0"),
    ("check", "--cases", "many"),
    ("check", "--features", "telepathy"),
    ("check", "--case", "bf16 telepathy"),
    ("plan", "--heads", "-1"),
    ("plan", "--head-dim", "12"),
    ("plan", "--head-dim", "0"),
    ("plan", "--scale", "nan"),
    ("plan", "--dtype", "f64"),
    ("plan", "--dtype", "f32"),
    ("bench", "--grid", "throughput"),
    ("bench", "--grids", "absent.json"),
    ("bench", "--rounds", "0"),
    ("info", "--xml"),
]


@pytest.mark.parametrize("arguments", BAD_USAGE, ids=" ".join)
def test_bad_usage_is_status_2_and_one_line(arguments: tuple) -> None:
    done = hopfill(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("hopfill: ")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


@pytest.mark.parametrize("command", [(), ("run",), ("info",), ("check",), ("bench",), ("plan",), ("demo",)], ids=" ".join)
def test_help(command: tuple) -> None:
    done = hopfill(*command, "--help")
    assert done.returncode == 0
    assert "Usage" in done.stdout or "Options" in done.stdout


def test_info_json() -> None:
    done = hopfill("info", "--json")
    assert done.returncode == 0
    info = json.loads(done.stdout)
    assert {"backends", "gpu", "driver", "nvrtc", "kernels"} <= info.keys()
    assert {"cpu", "emulated", "oracle"} <= set(info["backends"])
    assert info["kernels"]
    for kernel in info["kernels"]:
        assert {"name", "key", "registers", "shared", "spills", "evidence"} <= kernel.keys()
    assert hopfill("info").returncode == 0


def test_plan_for_any_device() -> None:
    plans = [json.loads(hopfill("plan", "--json", "--batch", 16, "--causal", "--sms", sms).stdout) for sms in (78, 132)]
    assert [p["grid"] for p in plans] == [78, 132]
    assert plans[0]["problem"]["causal"] is True
    text = hopfill("plan", "--batch", 16, "--causal", "--sms", 78)
    assert text.returncode == 0
    assert plans[0]["kernel"] in text.stdout


def test_plan_of_packed_problems() -> None:
    done = hopfill("plan", "--json", "--packed", "--batch", 3, "--seq-q", 100, "--tokens-q", 150, "--tokens-kv", 170, "--kv-heads", 8, "--lse")
    assert done.returncode == 0, done.stderr
    problem = json.loads(done.stdout)["problem"]
    assert (problem["tokens_q"], problem["tokens_kv"], problem["kv_heads"]) == (150, 170, 8)


def test_check_passes_and_counts_last() -> None:
    done = hopfill("check", "--backend", "cpu", "--seed", 3, "--cases", 5)
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-1] == "5 passed, 0 failed"
    assert done.stdout.startswith("worst: ")


def test_check_repeats_one_case() -> None:
    done = hopfill("check", "--backend", "oracle", "--case", "bf16 d64 h2/1 causal q=5 kv=7 seed=3")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "1 passed, 0 failed"


def test_bench_rows(tmp_path: Path) -> None:
    case = {"grid": "headline", "case": "tiny", "layout": "dense", "implementations": ["hopfill"]}
    case |= {"dtype": "bf16", "out_dtype": "bf16", "causal": True}
    case |= {"head_dim_qk": 64, "head_dim_vo": 64, "heads": 2, "kv_heads": 1, "batch": 2, "tokens_q": 64, "tokens_kv": 64}
    path = tmp_path / "grids.json"
    path.write_text(json.dumps({"cases": [case]}))
    done = hopfill("bench", "--backend", "cpu", "--grids", path, "--rounds", 2)
    assert done.returncode == 0, done.stderr
    (row,) = map(json.loads, done.stdout.splitlines())
    fields = """run gpu date impl version kernel key grid case dtype out_dtype head_dim_qk head_dim_vo
        heads kv_heads batch tokens_q tokens_kv causal us us_spread host_us tflops rms_err max_err note"""
    assert set(fields.split()) == row.keys()
    assert row["us"] > 0
    assert row["impl"] == "hopfill-cpu"
    assert row["tflops"] == pytest.approx(4 * 2 * 2 * 32 * 32 * 64 / 2 / row["us"] / 1e6)
    assert 0 < row["rms_err"] < row["max_err"] < 2e-2
    (row,) = map(json.loads, hopfill("bench", "--backend", "cpu", "--grids", path, "--rounds", 1, "--error-rows", 0).stdout.splitlines())
    assert (row["rms_err"], row["max_err"]) == (None, None)


def test_no_gpu_is_said() -> None:
    if json.loads(hopfill("info", "--json").stdout)["gpu"]:
        pytest.skip("this machine has a GPU")
    for arguments in (("check", "--backend", "sm90"), ("bench", "--backend", "sm90")):
        done = hopfill(*arguments)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1


def test_full_disk_is_an_error() -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full")
    with open("/dev/full", "w") as full:
        done = subprocess.run([BINARY, "info", "--json"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode != 0
