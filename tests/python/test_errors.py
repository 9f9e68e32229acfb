"""Errors: which exception, which argument, and that the message says what is allowed."""

import hopfill
import numpy as np
import pytest


@pytest.fixture
def qkv(tensors):
    return tensors()


def refused(error, argument, q, k, v, **options):
    with pytest.raises(error) as caught:
        hopfill.attention(q, k, v, **options)
    assert isinstance(caught.value, hopfill.Error)
    assert caught.value.argument.split(".")[0] == argument, caught.value
    assert "\n" not in str(caught.value) and str(caught.value).startswith(caught.value.argument)
    return str(caught.value)


def test_hierarchy():
    assert issubclass(hopfill.InvalidArgumentError, ValueError) and issubclass(hopfill.UnsupportedError, ValueError)
    assert issubclass(hopfill.UnavailableError, RuntimeError) and issubclass(hopfill.DeviceError, RuntimeError)
    assert issubclass(hopfill.FileError, OSError) and issubclass(hopfill.Error, Exception)


def test_shapes(qkv):
    q, k, v = qkv
    refused(ValueError, "k", q, k[..., :32], v)
    refused(ValueError, "v", q, k, v[:, :-1])
    refused(ValueError, "k", q, k[:1], v[:1])
    refused(ValueError, "k", q[0], k, v)


def test_heads_must_be_a_multiple(tensors):
    with pytest.raises(ValueError, match="multiple"):
        hopfill.attention(*tensors(heads=3, kv_heads=2))


@pytest.mark.parametrize("d", [4, 20, 264])
def test_head_dim(tensors, d):
    with pytest.raises(ValueError, match="head_dim|multiple of 8|256"):
        hopfill.attention(*tensors(d=d))


def test_last_stride(qkv):
    q, k, v = qkv
    refused(ValueError, "q", np.repeat(q, 2, axis=-1)[..., ::2], k, v)


def test_dtypes(qkv):
    q, k, v = qkv
    assert "float64" in refused(hopfill.UnsupportedError, "q", q.astype(np.float64), k, v)
    refused(ValueError, "k", q, k.astype(np.float16), v)
    refused(ValueError, "out_dtype", q, k, v, out_dtype="int8")
    refused(hopfill.UnsupportedError, "q", q.astype(">f4"), k, v)


@pytest.mark.parametrize("scale", [float("nan"), float("inf")])
def test_scale_must_be_finite(qkv, scale):
    refused(ValueError, "scale", *qkv, scale=scale)


def test_out(qkv):
    q, k, v = qkv
    refused(ValueError, "out", q, k, v, out=np.broadcast_to(np.float32(0), q.shape))
    with pytest.raises(ValueError):
        hopfill.attention(q, k, v, out=np.empty((*q.shape[:-1], 32), dtype=np.float32))
    refused(ValueError, "out_dtype", q, k, v, out=np.empty_like(q), out_dtype="float16")


def test_backend(qkv):
    assert "nowhere" in refused(ValueError, "backend", *qkv, backend="nowhere")


def test_no_gpu_is_unavailable(qkv):
    if hopfill.info()["gpu"]:
        pytest.skip("there is a GPU")
    with pytest.raises((hopfill.UnavailableError, hopfill.InvalidArgumentError, hopfill.UnsupportedError)):
        hopfill.attention(*qkv, backend="sm90")


@pytest.mark.parametrize("name", ["q_scale", "k_scale", "v_scale"])
def test_scales_of_tensors_that_are_not_fp8_are_refused(qkv, name):
    refused(hopfill.InvalidArgumentError, name, *qkv, **{name: np.ones(1, dtype=np.float32)})


class TestPacked:
    def call(self, rng, **changes):
        q, k = rng.standard_normal((10, 4, 32), dtype=np.float32), rng.standard_normal((10, 2, 32), dtype=np.float32)
        offsets = {"cu_seqlens_q": np.array([0, 4, 10], np.int32), "cu_seqlens_k": np.array([0, 4, 10], np.int32)}
        return hopfill.attention(q, k, k, **(offsets | changes))

    def test_right(self, rng):
        self.call(rng)

    @pytest.mark.parametrize("bad", [[0, 4, 11], [1, 4, 10], [0, 7, 4]])
    def test_offsets_out_of_range(self, rng, bad):
        with pytest.raises(ValueError, match="cu_seqlens_q"):
            self.call(rng, cu_seqlens_q=np.array(bad, np.int32))

    def test_offsets_of_different_batches(self, rng):
        with pytest.raises(ValueError, match="cu_seqlens"):
            self.call(rng, cu_seqlens_q=np.array([0, 10], np.int32))

    def test_offsets_of_another_dtype(self, rng):
        with pytest.raises(ValueError, match="cu_seqlens_k"):
            self.call(rng, cu_seqlens_k=np.array([0, 4, 10], np.int64))

    def test_one_of_two(self, rng):
        with pytest.raises(ValueError, match="cu_seqlens"):
            self.call(rng, cu_seqlens_k=None)

    def test_a_bound_below_a_length(self, rng):
        with pytest.raises(ValueError, match="max_seqlen_k|cu_seqlens_k"):
            self.call(rng, max_seqlen_k=3)


def test_offsets_of_a_dense_batch(qkv):
    with pytest.raises(ValueError, match="cu_seqlens"):
        hopfill.attention(*qkv, cu_seqlens_q=np.array([0, 1], np.int32), cu_seqlens_k=np.array([0, 1], np.int32))


def test_wrong_types(qkv):
    q, k, v = qkv
    for arguments, options in (((q.tolist(), k, v), {}), ((q, 3, v), {}), ((q, k, v), {"scale": "big"}), ((q, k, v), {"stream": "fast"})):
        with pytest.raises(TypeError):
            hopfill.attention(*arguments, **options)
    with pytest.raises(TypeError):
        hopfill.attention(q, k, v, False)  # options are keywords
    with pytest.raises(TypeError):
        hopfill.attention(q, k, v, windowed=True)
