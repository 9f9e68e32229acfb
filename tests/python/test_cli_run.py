"""`hopfill run` on files that the safetensors package wrote: against NumPy in float64, stored PyTorch results, and files that are no good."""

import json
import os
import struct
import subprocess
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from conftest import reference
from safetensors.numpy import load_file, save_file

ROOT = Path(__file__).resolve().parents[2]
BINARY = Path(os.environ.get("HOPFILL_BINARY", ROOT / "build" / "hopfill"))
DATA = ROOT / "tests" / "data"

BF16 = np.dtype(ml_dtypes.bfloat16)
F16, F32 = np.dtype(np.float16), np.dtype(np.float32)
# Half a unit in the last place of outputs below 4 in magnitude, and a little for the arithmetic before the rounding (p is rounded for 16-bit inputs).
TOLERANCE = {BF16: 3e-2, F16: 4e-3, F32: 2e-5}


def hopfill(*arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run([BINARY, *map(str, arguments)], capture_output=True, text=True, timeout=300)


def run(folder: Path, *options: object) -> dict[str, np.ndarray]:
    """What the command makes of folder/in.safetensors."""
    done = hopfill("run", folder / "in.safetensors", "-o", folder / "out.safetensors", *options)
    assert done.returncode == 0, done.stderr
    return load_file(folder / "out.safetensors")


def random_tensor(rng: np.random.Generator, dtype: np.dtype, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32).astype(dtype)


def expect_close(outputs: dict, o: np.ndarray, lse: np.ndarray, dtype: np.dtype) -> None:
    assert outputs["o"].dtype == dtype
    assert outputs["lse"].dtype == F32
    assert outputs["o"].shape == o.shape
    assert outputs["lse"].shape == lse.shape
    np.testing.assert_allclose(outputs["o"].astype(np.float64), o, rtol=0, atol=TOLERANCE[dtype])
    np.testing.assert_allclose(outputs["lse"].astype(np.float64), lse, rtol=2e-6, atol=5e-5)


DENSE = [
    # batch, seq_q, seq_kv, heads, kv_heads, dim
    (1, 1, 1, 1, 1, 8),
    (2, 5, 7, 4, 2, 64),
    (1, 65, 129, 6, 1, 72),
    (3, 33, 17, 4, 4, 128),
    (1, 130, 130, 2, 2, 80),
    (2, 0, 3, 2, 1, 96),
    (2, 3, 0, 2, 1, 16),
    (1, 64, 64, 12, 3, 256),
]


@pytest.mark.parametrize("dtype", [F32, F16, BF16], ids=str)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("shape", DENSE, ids=str)
def test_dense_agrees_with_float64(tmp_path: Path, shape: tuple, causal: bool, dtype: np.dtype) -> None:
    batch, seq_q, seq_kv, heads, kv_heads, dim = shape
    rng = np.random.default_rng(sum(shape))
    q = random_tensor(rng, dtype, batch, seq_q, heads, dim)
    k, v = (random_tensor(rng, dtype, batch, seq_kv, kv_heads, dim) for _ in "kv")
    save_file({"q": q, "k": k, "v": v}, tmp_path / "in.safetensors")
    outputs = run(tmp_path, "--backend", "cpu", *["--causal"] * causal)
    o, lse = reference(q, k, v, causal)
    expect_close(outputs, o, lse, dtype)


@pytest.mark.parametrize("backend", ["cpu", "oracle"])
@pytest.mark.parametrize("causal", [False, True])
def test_packed_agrees_with_float64(tmp_path: Path, causal: bool, backend: str) -> None:
    q_lens, kv_lens = [3, 0, 70, 1, 9], [5, 2, 64, 0, 20]
    heads, kv_heads, dim, scale = 4, 2, 64, 0.3
    rng = np.random.default_rng(5)
    q = random_tensor(rng, F16, sum(q_lens), heads, dim)
    k, v = (random_tensor(rng, F16, sum(kv_lens), kv_heads, dim) for _ in "kv")
    cu_q, cu_k = (np.concatenate([[0], np.cumsum(lens)]).astype(np.int32) for lens in (q_lens, kv_lens))
    save_file({"q": q, "k": k, "v": v, "cu_seqlens_q": cu_q, "cu_seqlens_k": cu_k}, tmp_path / "in.safetensors")
    outputs = run(tmp_path, "--backend", backend, "--scale", scale, *["--causal"] * causal)
    sequences = zip(cu_q, cu_q[1:], cu_k, cu_k[1:], strict=False)
    parts = [reference(q[None, a:b], k[None, c:d], v[None, c:d], causal, scale) for a, b, c, d in sequences]
    expect_close(outputs, np.concatenate([o[0] for o, _ in parts]), np.concatenate([lse[0] for _, lse in parts], axis=1), F16)


@pytest.mark.parametrize("path", sorted(DATA.glob("torch-*.safetensors")), ids=lambda p: p.stem)
def test_agrees_with_stored_pytorch(tmp_path: Path, path: Path) -> None:
    """q, k, v and what PyTorch's scaled_dot_product_attention made of them (tests/data/make_torch.py); the file's name says whether causal."""
    stored = load_file(path)
    save_file({name: stored[name] for name in "qkv"}, tmp_path / "in.safetensors")
    o = run(tmp_path, "--backend", "cpu", *["--causal"] * ("causal" in path.stem))["o"]
    np.testing.assert_allclose(o.astype(np.float64), stored["o"].astype(np.float64), rtol=0, atol=TOLERANCE[stored["q"].dtype])


def test_out_dtype(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    save_file({name: random_tensor(rng, BF16, 1, 4, 2, 64) for name in "qkv"}, tmp_path / "in.safetensors")
    assert run(tmp_path, "--backend", "oracle", "--out-dtype", "f32")["o"].dtype == F32


def good_tensors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(2)
    return {name: random_tensor(rng, F16, 1, 4, 2, 64) for name in "qkv"}


def packed_tensors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(2)
    lengths = {name: np.array([0, 3, 6], np.int32) for name in ("cu_seqlens_q", "cu_seqlens_k")}
    return {name: random_tensor(rng, F16, 6, 2, 64) for name in "qkv"} | lengths


def expect_refused(tmp_path: Path, source: Path, named: str, *options: object) -> None:
    """One line, naming the tensor; status 2; nothing beside the input, and what stood under the output's name still there."""
    output = tmp_path / "out.safetensors"
    output.write_text("what was there before")
    done = hopfill("run", source, "-o", output, "--backend", "cpu", *options)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("hopfill: ")
    assert done.stderr.count("\n") == 1
    assert named in done.stderr
    assert done.stdout == ""
    assert output.read_text() == "what was there before"
    assert {p.name for p in tmp_path.iterdir()} <= {output.name, source.name}


BAD_TENSORS = {
    "no k": (lambda t: t.pop("k"), "k: "),
    "f64": (lambda t: t.update(q=t["q"].astype(np.float64)), "q: is F64"),
    "i64 lengths": (lambda t: t.update(cu_seqlens_q=np.array([0, 1])), "cu_seqlens_q: is I64"),
    "dtypes": (lambda t: t.update(v=t["v"].astype(np.float32)), "v: is f32 where k is f16"),
    "rank": (lambda t: t.update(q=t["q"][0, 0]), "q: has rank 2"),
    "head_dim": (lambda t: t.update({n: np.ascontiguousarray(t[n][..., :12]) for n in "qkv"}), "head_dim: is 12"),
    "keys of v": (lambda t: t.update(v=np.ascontiguousarray(t["v"][:, :3])), "v.shape[1]"),
    "heads": (lambda t: t.update({n: np.zeros((1, 4, 3, 64), np.float16) for n in "kv"}), "heads: is 2"),
    "dense with cu_seqlens": (lambda t: t.update(cu_seqlens_q=np.array([0, 4], np.int32)), "cu_seqlens_q: "),
}


@pytest.mark.parametrize("name", BAD_TENSORS)
def test_refuses_tensors_that_do_not_agree(tmp_path: Path, name: str) -> None:
    spoil, named = BAD_TENSORS[name]
    tensors = good_tensors()
    spoil(tensors)
    source = tmp_path / "in.safetensors"
    save_file(tensors, source)
    expect_refused(tmp_path, source, named)


BAD_LENGTHS = {"missing": None, "start": [1, 3, 6], "backwards": [0, 7, 6], "beyond": [0, 3, 7], "batch": [0, 6]}


@pytest.mark.parametrize("name", BAD_LENGTHS)
def test_refuses_bad_lengths(tmp_path: Path, name: str) -> None:
    tensors = packed_tensors()
    lengths = BAD_LENGTHS[name]
    if lengths is None:
        del tensors["cu_seqlens_k"]
    else:
        tensors["cu_seqlens_k"] = np.array(lengths, np.int32)
    source = tmp_path / "in.safetensors"
    save_file(tensors, source)
    expect_refused(tmp_path, source, "cu_seqlens_k")


@pytest.mark.parametrize("scale", ["nan", "inf", "-inf", "1e60", "two"])
def test_refuses_scales_that_are_not_finite(tmp_path: Path, scale: str) -> None:
    source = tmp_path / "in.safetensors"
    save_file(good_tensors(), source)
    expect_refused(tmp_path, source, "scale", f"--scale={scale}")


def rewrite_header(path: Path, change) -> None:
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


def shift(tensor: dict, by: int) -> None:
    tensor["data_offsets"] = [offset + by for offset in tensor["data_offsets"]]


BAD_HEADERS = {
    "unknown dtype": (lambda h: h["q"].update(dtype="F17"), "q: has unknown dtype"),
    "wrong offsets": (lambda h: h["v"].update(data_offsets=[0, 7]), "v: "),
    "overlap": (lambda h: h["k"].update(data_offsets=h["q"]["data_offsets"]), "overlaps"),
    "shifted": (lambda h: shift(h["v"], 64), "v: "),
    "overflow": (lambda h: h["q"].update(shape=[1 << 40, 1 << 40]), "q: "),
    "list": (lambda h: h.update(q=[1, 2]), "q: "),
}


@pytest.mark.parametrize("name", BAD_HEADERS)
def test_refuses_bad_headers(tmp_path: Path, name: str) -> None:
    change, named = BAD_HEADERS[name]
    source = tmp_path / "in.safetensors"
    save_file(good_tensors(), source)
    rewrite_header(source, change)
    expect_refused(tmp_path, source, named)


@pytest.mark.parametrize("keep", [0, 7, 8, 100, -1])
def test_refuses_truncated_files(tmp_path: Path, keep: int) -> None:
    source = tmp_path / "in.safetensors"
    save_file(good_tensors(), source)
    source.write_bytes(source.read_bytes()[:keep])
    expect_refused(tmp_path, source, "v: " if keep == -1 else "safetensors header")


def test_refuses_files_that_are_not_there(tmp_path: Path) -> None:
    expect_refused(tmp_path, tmp_path / "absent.safetensors", "absent.safetensors")


def test_says_which_tensors_it_does_not_use(tmp_path: Path) -> None:
    save_file(good_tensors() | {"mask": np.zeros(3, np.float32)}, tmp_path / "in.safetensors")
    done = hopfill("run", tmp_path / "in.safetensors", "-o", tmp_path / "out.safetensors", "--backend", "cpu")
    assert done.returncode == 0
    assert '"mask"' in done.stderr
