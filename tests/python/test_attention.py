"""hopfill.attention on NumPy arrays (CPU backend), against float64."""

import subprocess
import sys

import hopfill
import ml_dtypes
import numpy as np
import pytest
from conftest import reference

TOLERANCE = {np.dtype("float32"): 2e-5, np.dtype("float16"): 3e-3, np.dtype(ml_dtypes.bfloat16): 2e-2}


def close(actual, expected, dtype):
    actual = np.asarray(actual, dtype=np.float64)
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=TOLERANCE[np.dtype(dtype)], atol=TOLERANCE[np.dtype(dtype)])


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("causal", [False, True])
def test_dense_agrees_with_float64(tensors, dtype, causal):
    q, k, v = tensors(dtype=dtype)
    out = hopfill.attention(q, k, v, causal=causal)
    assert isinstance(out, np.ndarray) and out.dtype == q.dtype
    close(out, reference(q, k, v, causal)[0], dtype)


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (8, 2), (6, 1)])
@pytest.mark.parametrize(("seq_q", "seq_kv"), [(1, 1), (5, 40), (40, 5), (1, 129)])
def test_heads_and_lengths(tensors, heads, kv_heads, seq_q, seq_kv):
    q, k, v = tensors(batch=1, seq_q=seq_q, seq_kv=seq_kv, heads=heads, kv_heads=kv_heads, d=40)
    out, lse = hopfill.attention(q, k, v, causal=True, return_lse=True)
    expected, expected_lse = reference(q, k, v, causal=True)
    close(out, expected, np.float32)
    assert lse.dtype == np.float32
    close(lse, expected_lse, np.float32)


def test_rows_without_keys_are_zero_with_an_lse_of_minus_infinity(tensors):
    q, k, v = tensors(batch=1, seq_q=10, seq_kv=4)
    out, lse = hopfill.attention(q, k, v, causal=True, return_lse=True)
    assert not out[:, :6].any()
    assert np.isneginf(lse[:, :, :6]).all() and np.isfinite(lse[:, :, 6:]).all()


@pytest.mark.parametrize("scale", [0.3, 1, np.float32(0.05)])
def test_scale(tensors, scale):
    q, k, v = tensors()
    close(hopfill.attention(q, k, v, scale=scale), reference(q, k, v, scale=float(scale))[0], np.float32)


def test_any_strides_whose_last_is_one(tensors):
    q, k, v = tensors()
    joined = np.ascontiguousarray(np.stack([k, v], axis=2))  # [b, s, 2, h, d]
    transposed = np.ascontiguousarray(q.transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3)
    assert not joined[:, :, 0].flags.c_contiguous and not transposed.flags.c_contiguous
    close(hopfill.attention(transposed, joined[:, :, 0], joined[:, :, 1]), reference(q, k, v)[0], np.float32)


def packed(rng, lengths_q, lengths_kv, heads=4, kv_heads=2, d=32):
    def normal(tokens, heads):
        return rng.standard_normal((tokens, heads, d), dtype=np.float32)

    def offsets(lengths):
        return np.cumsum([0, *lengths], dtype=np.int32)

    q, k, v = normal(sum(lengths_q), heads), normal(sum(lengths_kv), kv_heads), normal(sum(lengths_kv), kv_heads)
    return q, k, v, offsets(lengths_q), offsets(lengths_kv)


@pytest.mark.parametrize("bounds", [{}, {"max_seqlen_q": 65, "max_seqlen_k": 70}])
def test_packed_sequences_are_each_their_own(rng, bounds):
    q, k, v, cu_q, cu_k = packed(rng, [3, 0, 65, 1], [7, 2, 65, 70])
    out, lse = hopfill.attention(q, k, v, causal=True, cu_seqlens_q=cu_q, cu_seqlens_k=cu_k, return_lse=True, **bounds)
    assert out.shape == q.shape and lse.shape == (4, len(q))
    for i in range(4):
        rows, keys = slice(cu_q[i], cu_q[i + 1]), slice(cu_k[i], cu_k[i + 1])
        expected, expected_lse = reference(q[None, rows], k[None, keys], v[None, keys], causal=True)
        close(out[rows], expected[0], np.float32)
        close(lse[:, rows], expected_lse[0], np.float32)


def test_out_is_written_and_returned(tensors):
    q, k, v = tensors()
    out = np.full(q.shape, np.nan, dtype=np.float32)
    assert hopfill.attention(q, k, v, out=out) is out
    close(out, reference(q, k, v)[0], np.float32)


def test_out_may_be_strided(tensors):
    q, k, v = tensors()
    wide = np.full((*q.shape[:-1], 80), 5, dtype=np.float32)
    hopfill.attention(q, k, v, out=wide[..., :64])
    close(wide[..., :64], reference(q, k, v)[0], np.float32)
    assert (wide[..., 64:] == 5).all()


def test_results_repeat_bit_for_bit(tensors):
    q, k, v = tensors(seq_q=200, seq_kv=200)
    first = hopfill.attention(q, k, v, causal=True)
    assert all((hopfill.attention(q, k, v, causal=True) == first).all() for _ in range(3))


def test_oracle_backend(tensors):
    q, k, v = tensors()
    close(hopfill.attention(q, k, v, backend="oracle"), reference(q, k, v)[0], np.float32)


def test_plan_names_the_backend(tensors):
    q, k, v = tensors()
    plan = hopfill.plan(q, k, v, causal=True)
    assert plan.backend == "cpu" and plan == hopfill.plan(q, k, v, causal=True) and plan != hopfill.plan(q, k, v)
    assert "cpu" in str(plan)


def test_plan_for_a_gpu_needs_none(tensors):
    q, k, v = tensors(seq_q=512, seq_kv=512, heads=32, kv_heads=32, d=128, dtype=ml_dtypes.bfloat16)
    plan = hopfill.plan(q, k, v, causal=True, backend="sm90")
    assert plan.backend == "sm90" and plan.kernel and plan.tile_m > 0 and plan.grid > 0


def test_info_says_what_is_here():
    info = hopfill.info()
    assert set(info) == {"version", "backends", "gpu", "driver", "nvrtc", "kernels"}
    assert "cpu" in info["backends"] and info["version"] == hopfill.__version__
    for kernel in info["kernels"]:
        assert set(kernel) == {"name", "key", "registers", "shared", "spills", "evidence"}


def test_import_brings_no_framework():
    code = "import sys, hopfill; print([m for m in ('torch', 'numpy', 'ml_dtypes') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip() == "[]"


def test_typed():
    import importlib.resources

    files = importlib.resources.files("hopfill")
    assert (files / "py.typed").is_file() and "def attention(" in (files / "_core.pyi").read_text()
    for argument in ("cu_seqlens_q", "max_seqlen_k", "out_dtype", "stream", "Raises"):
        assert argument in hopfill.attention.__doc__
