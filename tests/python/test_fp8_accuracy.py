"""FP8 over length without a GPU: errors that do not grow with the number of keys, needles in haystacks. bench/accuracy.py does it at full size."""

import math

import hopfill
import ml_dtypes
import numpy as np
import pytest
from conftest import reference

E4M3 = ml_dtypes.float8_e4m3fn
D = 64


def relative_error(backend, keys):
    """RMS error over the output's RMS; every query sees every key."""
    squares = np.zeros(2)
    for seed in range(3):
        rng = np.random.default_rng(seed)
        q, k, v = (rng.standard_normal((1, n, 1, D)).astype(E4M3) for n in (64, keys, keys))
        o = hopfill.attention(q, k, v, out_dtype=np.float16, backend=backend).astype(np.float64)
        want, _ = reference(*(t.astype(np.float64) for t in (q, k, v)))
        squares += ((o - want) ** 2).sum(), (want**2).sum()
    return math.sqrt(squares[0] / squares[1])


# They grow a little by nature: the greatest weight of a row is exact, and counts for less among more keys.
@pytest.mark.parametrize(("backend", "short", "long"), [("cpu", 4096, 16384), ("emulated", 2048, 8192)])
def test_errors_do_not_grow_with_length(backend, short, long):
    assert relative_error(backend, long) < 1.1 * relative_error(backend, short) < 0.05


@pytest.mark.parametrize(("backend", "keys", "seeds"), [("cpu", 65536, 3), ("emulated", 1024, 5)])
def test_needles_are_found(backend, keys, seeds):
    """One key's logit stands ln(keys) + 3 above the others, which are 0; the values are random signs, the code of their key."""
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        place, half = rng.integers(keys), D // 2
        q = np.zeros((1, 16, 1, D))
        k = rng.standard_normal((1, keys, 1, D))
        v = rng.choice([-1.0, 1.0], (1, keys, 1, D))
        q[..., :half] = rng.choice([-1.0, 1.0], half)
        k[..., :half] = 0
        k[0, place, 0] = 0
        # Of e4m3's numbers, the next one up.
        size = (math.log(keys) + 3) * math.sqrt(D) / half
        k[0, place, 0, :half] = q[0, 0, 0, :half] * math.ceil(size * 4) / 4
        o = hopfill.attention(*(t.astype(E4M3) for t in (q, k, v)), out_dtype=np.float16, backend=backend)
        assert (np.sign(o[0, :, 0]) == v[0, place, 0]).all() and (np.abs(o) > 0.9).all()
