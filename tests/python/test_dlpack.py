"""Arrays of other packages, through DLPack: borrowed, never copied, and released afterwards."""

import gc
import sys
import weakref

import hopfill
import numpy as np
import pytest
from conftest import reference


class Foreign:
    """An array of a package that hopfill has never heard of."""

    def __init__(self, array, versioned=True):
        self.array, self.versioned, self.calls = array, versioned, []

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()

    def __dlpack__(self, **arguments):
        self.calls.append(dict(arguments))
        if "max_version" in arguments and not self.versioned:
            raise TypeError("unexpected keyword argument 'max_version'")
        arguments.pop("stream")
        return self.array.__dlpack__(**arguments)


@pytest.mark.parametrize("versioned", [True, False])
def test_round_trip(tensors, versioned):
    q, k, v = tensors()
    out = np.zeros_like(q)
    wrapped = Foreign(out, versioned)
    result = hopfill.attention(*(Foreign(t, versioned) for t in (q, k, v)), out=wrapped)
    assert result is wrapped
    np.testing.assert_allclose(np.from_dlpack(wrapped.array), reference(q, k, v)[0], atol=2e-5)
    assert all(call["stream"] is None for call in wrapped.calls)  # host memory has no stream


def test_strides_survive(tensors):
    q, k, v = tensors()
    strided = np.ascontiguousarray(q.transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3)
    out = np.zeros_like(q)
    hopfill.attention(Foreign(strided), Foreign(k), Foreign(v), out=Foreign(out))
    np.testing.assert_allclose(out, reference(q, k, v)[0], atol=2e-5)


def test_out_is_needed(tensors):
    with pytest.raises(TypeError, match="out"):
        hopfill.attention(*(Foreign(t) for t in tensors()))


def test_read_only_out_is_refused(tensors):
    q, k, v = tensors()
    out = np.zeros_like(q)
    out.flags.writeable = False
    with pytest.raises(ValueError, match="out"):
        hopfill.attention(Foreign(q), Foreign(k), Foreign(v), out=Foreign(out))


def test_packages_do_not_mix(tensors):
    q, k, v = tensors()
    with pytest.raises(TypeError, match="k: expected a numpy.ndarray, like q"):
        hopfill.attention(q, Foreign(k), v)


def test_arrays_are_released(tensors):
    class Array(np.ndarray):
        pass

    arrays = [t.view(Array) for t in tensors()]
    before = [sys.getrefcount(a) for a in arrays]
    out = np.zeros(arrays[0].shape, np.float32)
    for _ in range(3):
        hopfill.attention(*(Foreign(a) for a in arrays), out=Foreign(out))
    gc.collect()
    assert [sys.getrefcount(a) for a in arrays] == before
    gone = weakref.ref(arrays[0])
    arrays.clear()
    gc.collect()
    assert gone() is None


def test_calls_do_not_leak(tensors):
    q, k, v = tensors(batch=1, seq_q=4, seq_kv=4)
    hopfill.attention(q, k, v, return_lse=True)
    before = sys.getrefcount(q), sys.getrefcount(q.dtype)
    for _ in range(100):
        hopfill.attention(q, k, v, return_lse=True)
        with pytest.raises(ValueError):
            hopfill.attention(q, k, v, scale=float("nan"))
    assert sys.getrefcount(q) == before[0] and abs(sys.getrefcount(q.dtype) - before[1]) < 10
