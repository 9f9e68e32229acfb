"""What the suites share: NumPy inputs, a float64 reference, and where the bench's modules are."""

import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bench"))


def reference(q, k, v, causal=False, scale=None):
    """float64 attention of [batch, seq, heads, head_dim]: (out, lse [batch, heads, seq])."""
    q, k, v = (np.asarray(t, dtype=np.float64) for t in (q, k, v))
    group = q.shape[2] // k.shape[2]
    k, v = np.repeat(k, group, axis=2), np.repeat(v, group, axis=2)
    logits = np.einsum("bqhd,bkhd->bhqk", q, k) * (1 / np.sqrt(q.shape[-1]) if scale is None else scale)
    queries, keys = logits.shape[-2:]
    if causal:
        hidden = np.arange(keys)[None, :] > np.arange(queries)[:, None] + keys - queries
        logits = np.where(hidden, -np.inf, logits)
    top = logits.max(axis=-1, keepdims=True, initial=-np.inf)
    weights = np.exp(logits - np.where(np.isinf(top), 0, top))
    total = weights.sum(axis=-1, keepdims=True)
    with np.errstate(divide="ignore"):
        lse = (np.log(total) + np.where(np.isinf(top), 0, top))[..., 0]
    out = np.einsum("bhqk,bkhd->bqhd", weights / np.where(total == 0, 1, total), v)
    return out, lse


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.fixture
def tensors(rng):
    """make(batch, seq_q, seq_kv, heads, kv_heads, d, dtype) -> q, k, v."""

    def make(batch=2, seq_q=33, seq_kv=33, heads=4, kv_heads=2, d=64, dtype=np.float32):
        shapes = ((batch, seq_q, heads, d), (batch, seq_kv, kv_heads, d), (batch, seq_kv, kv_heads, d))
        return tuple(rng.standard_normal(s, dtype=np.float32).astype(dtype) for s in shapes)

    return make
