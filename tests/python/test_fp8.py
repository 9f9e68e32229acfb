"""FP8 (E4M3) arrays of NumPy and PyTorch, with scales of every shape, on the CPU backend and the command, against float64."""

import json

import hopfill
import ml_dtypes
import numpy as np
import pytest
from conftest import reference
from safetensors.numpy import load_file, save_file
from test_cli_run import hopfill as command

E4M3 = np.dtype(ml_dtypes.float8_e4m3fn)
B, Q, K, H, G, D = 2, 70, 200, 4, 2, 64


@pytest.fixture
def fp8(rng):
    """q, k, v in E4M3, whose float64 values are those of the bytes."""
    return tuple(rng.standard_normal(shape, dtype=np.float32).astype(E4M3) for shape in ((B, Q, H, D), (B, K, G, D), (B, K, G, D)))


def spread(scale, kind, tokens, heads):
    """A scale as a factor of [batch, tokens, heads, head_dim]."""
    scale = scale.astype(np.float64)
    if kind == "tensor":
        return scale.reshape(1, 1, 1, 1)
    if kind == "head":
        return scale.reshape(1, 1, -1, 1)
    if kind == "channel":
        return scale.reshape(1, 1, G, D)
    if kind == "sequence":
        return np.repeat(scale, heads // G, axis=1)[:, None, :, None]
    per_token = np.repeat(scale, 64, axis=2)[:, :, :tokens].transpose(0, 2, 1)
    return np.repeat(per_token, heads // G, axis=2)[..., None]


def draw(rng, kind, tokens, heads):
    shape = {"tensor": (1,), "head": (heads,), "sequence": (B, G), "block": (B, G, -(-tokens // 64)), "channel": (G, D)}[kind]
    return rng.uniform(0.5, 1.5, shape).astype(np.float32)


KINDS = ["tensor tensor tensor", "head head head", "sequence sequence channel", "block block block", "tensor block channel"]


@pytest.mark.parametrize("kinds", KINDS)
@pytest.mark.parametrize("causal", [False, True])
def test_scales_multiply_what_is_stored(fp8, rng, kinds, causal):
    scales, wide = [], []
    for array, kind in zip(fp8, kinds.split(), strict=True):
        scale = draw(rng, kind, array.shape[1], array.shape[2])
        scales.append(scale)
        wide.append(array.astype(np.float64) * spread(scale, kind, array.shape[1], array.shape[2]))
    out, lse = hopfill.attention(
        *fp8, causal=causal, q_scale=scales[0], k_scale=scales[1], v_scale=scales[2], scale_block=64 if "block" in kinds else None,
        out_dtype="float32", return_lse=True,
    )
    expected, expected_lse = reference(*wide, causal)
    np.testing.assert_allclose(out, expected, rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(lse, expected_lse, rtol=2e-5, atol=2e-5)


def test_output_is_bfloat16_unless_asked(fp8):
    expected = reference(*fp8)[0]
    out = hopfill.attention(*fp8)
    assert out.dtype == np.dtype(ml_dtypes.bfloat16)
    np.testing.assert_allclose(out.astype(np.float64), expected, rtol=1e-2, atol=1e-3)
    out = hopfill.attention(*fp8, out_dtype=ml_dtypes.float8_e4m3fn)
    assert out.dtype == E4M3
    np.testing.assert_allclose(out.astype(np.float64), expected, rtol=0.07, atol=2e-3)


def test_float8_outputs_saturate(fp8):
    out = hopfill.attention(*fp8, v_scale=np.array([1e6], np.float32), out_dtype="float8_e4m3fn").astype(np.float32)
    assert np.abs(out).max() == 448


def test_sixteen_bit_queries(fp8, rng):
    q = rng.standard_normal((B, Q, H, D), dtype=np.float32).astype(np.float16)
    scale = draw(rng, "head", K, G)
    out = hopfill.attention(q, fp8[1], fp8[2], k_scale=scale)
    assert out.dtype == np.float16
    expected = reference(q, fp8[1].astype(np.float64) * spread(scale, "head", K, G), fp8[2])[0]
    np.testing.assert_allclose(out.astype(np.float64), expected, rtol=3e-3, atol=3e-3)


@pytest.mark.parametrize("head_dim", [128, 256])
def test_sixteen_bit_queries_under_the_emulator(rng, head_dim):
    q = rng.standard_normal((1, Q, H, head_dim), dtype=np.float32).astype(ml_dtypes.bfloat16)
    k, v = (rng.standard_normal((1, K, G, head_dim), dtype=np.float32).astype(E4M3) for _ in range(2))
    scale = draw(rng, "head", K, G)
    plan = hopfill.plan(q, k, v, k_scale=scale, backend="emulated")
    assert head_dim == 128 or plan.scratch_bytes == 2 * 2 * K * G * head_dim, "copies of k and v in 16 bits"
    out = hopfill.attention(q, k, v, k_scale=scale, backend="emulated")
    expected = reference(q.astype(np.float64), k.astype(np.float64) * spread(scale, "head", K, G), v)[0]
    np.testing.assert_allclose(out.astype(np.float64), expected, rtol=2e-2, atol=5e-3)


def test_scratch_memory_has_a_limit(fp8):
    q, k, v = (np.zeros((1, 8192, 8, 256), E4M3) for _ in range(3))
    plan = hopfill.plan(q, k, v, backend="sm90")
    assert plan.scratch_bytes == v.size, "v transposed"
    assert "scratch" in str(plan)
    assert hopfill.plan(q, k, v, backend="sm90", max_scratch_bytes=plan.scratch_bytes).kernel == plan.kernel
    without = hopfill.plan(q, k, v, backend="sm90", max_scratch_bytes=plan.scratch_bytes - 1)
    assert without.scratch_bytes == 0
    assert plan.kernel == without.kernel + "_turned"
    with pytest.raises(hopfill.InvalidArgumentError, match="max_scratch_bytes: is -1"):
        hopfill.attention(*fp8, max_scratch_bytes=-1)


def test_transposed_values(fp8):
    q, k, v = fp8
    transposed = np.ascontiguousarray(v.transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(hopfill.attention(q, k, transposed, v_transposed=True), hopfill.attention(q, k, v))


@pytest.mark.parametrize(
    ("changes", "argument"),
    [
        ({"q_scale": np.ones(3, np.float32)}, "q_scale"),
        ({"k_scale": np.ones((B, G), np.float16)}, "k_scale"),
        ({"v_scale": np.ones((B, G, 4), np.float32)}, "scale_block"),
        ({"v_scale": np.ones((B, G, 3), np.float32), "scale_block": 64}, "v_scale"),
        ({"scale_block": 64}, "scale_block"),
        ({"v_transposed": True}, "v.shape[1]"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_errors_name_the_argument(fp8, changes, argument):
    with pytest.raises(hopfill.InvalidArgumentError) as error:
        hopfill.attention(*fp8, **changes)
    assert error.value.argument == argument


def test_scales_are_arrays(fp8):
    with pytest.raises(TypeError, match="q_scale"):
        hopfill.attention(*fp8, q_scale=0.5)


class TestQuantize:
    @pytest.mark.parametrize("v_scale", ["tensor", "head", "sequence", "block", "channel"])
    @pytest.mark.parametrize("transpose_v", [False, True])
    def test_attention_over_quantised_tensors(self, rng, v_scale, transpose_v):
        q = rng.standard_normal((B, Q, H, D), dtype=np.float32).astype(ml_dtypes.bfloat16)
        k, v = (rng.standard_normal((B, K, G, D), dtype=np.float32).astype(ml_dtypes.bfloat16) for _ in "kv")
        block = 64 if v_scale == "block" else None
        k8, v8, ks, vs, mean = hopfill.quantize(k, v, k_scale="head", v_scale=v_scale, scale_block=block, transpose_v=transpose_v, smooth_k=True)
        assert k8.dtype == v8.dtype == E4M3
        assert mean.shape == (B, G, D)
        np.testing.assert_allclose(mean, k.astype(np.float64).mean(axis=1), atol=1e-6)
        out = hopfill.attention(q, k8, v8, k_scale=ks, v_scale=vs, scale_block=block, v_transposed=transpose_v, out_dtype="float32")
        error = np.abs(out - reference(q, k, v)[0])
        assert np.sqrt((error**2).mean()) < 0.01

    def test_packed(self, rng):
        k, v = (rng.standard_normal((90, G, D), dtype=np.float32).astype(np.float16) for _ in "kv")
        offsets = np.array([0, 20, 90], np.int32)
        k8, _, scale, *_ = hopfill.quantize(k, v, k_scale="sequence", cu_seqlens_k=offsets, max_seqlen_k=70)
        assert scale.shape == (2, G)
        np.testing.assert_array_equal(scale[1], np.abs(k[20:].astype(np.float32)).max(axis=(0, 2)) / np.float32(448))
        np.testing.assert_allclose(k8[:20].astype(np.float32) * scale[0][:, None], k[:20].astype(np.float32), rtol=0.07, atol=0.01)

    @pytest.mark.parametrize(
        ("changes", "argument"),
        [
            ({"k_scale": "channel"}, "k_scale"),
            ({"v_scale": "row"}, "v_scale"),
            ({"v_scale": "block"}, "scale_block"),
            ({"scale_block": 64}, "scale_block"),
        ],
    )
    def test_errors_name_the_argument(self, rng, changes, argument):
        k = rng.standard_normal((B, K, G, D), dtype=np.float32).astype(np.float16)
        with pytest.raises(hopfill.InvalidArgumentError) as error:
            hopfill.quantize(k, k, **changes)
        assert error.value.argument == argument

    def test_float32_is_refused(self, rng):
        k = rng.standard_normal((B, K, G, D), dtype=np.float32)
        with pytest.raises(hopfill.UnsupportedError, match="f16 and bf16"):
            hopfill.quantize(k, k)


class TestTorch:
    def test_float8_tensors(self, fp8):
        torch = pytest.importorskip("torch")
        tensors = [torch.from_numpy(a.view(np.uint8)).view(torch.float8_e4m3fn) for a in fp8]
        scale = torch.tensor([0.5])
        out = hopfill.attention(*tensors, v_scale=scale)
        assert out.dtype == torch.bfloat16
        expected = hopfill.attention(*fp8, v_scale=scale.numpy(), out_dtype="float32")
        np.testing.assert_allclose(out.float().numpy(), expected, rtol=1e-2, atol=1e-3)
        eight = hopfill.attention(*tensors, out_dtype=torch.float8_e4m3fn)
        assert eight.dtype == torch.float8_e4m3fn
        wanted = hopfill.attention(*fp8, out_dtype="float8_e4m3fn")
        np.testing.assert_array_equal(eight.view(torch.uint8).numpy(), wanted.view(np.uint8))


class TestCommand:
    def test_files_with_scales(self, tmp_path, fp8, rng):
        q, k, v = fp8
        scales = {"q_scale": draw(rng, "block", Q, H), "k_scale": draw(rng, "tensor", K, G), "v_scale": draw(rng, "channel", K, G)}
        save_file({"q": q, "k": k, "v": v, **scales}, tmp_path / "in.safetensors")
        done = command("run", tmp_path / "in.safetensors", "-o", tmp_path / "out.safetensors", "--backend", "cpu", "--scale-block", 64)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        o = load_file(tmp_path / "out.safetensors")["o"]
        assert o.dtype == np.dtype(ml_dtypes.bfloat16)
        expected = hopfill.attention(q, k, v, **scales, scale_block=64)
        np.testing.assert_array_equal(o.view(np.uint16), expected.view(np.uint16))

    def test_float8_output(self, tmp_path, fp8):
        save_file(dict(zip("qkv", fp8, strict=True)), tmp_path / "in.safetensors")
        done = command("run", tmp_path / "in.safetensors", "-o", tmp_path / "out.safetensors", "--backend", "cpu", "--out-dtype", "e4m3")
        assert done.returncode == 0, done.stderr
        raw = (tmp_path / "out.safetensors").read_bytes()  # the package's NumPy loader knows no float8
        head = int.from_bytes(raw[:8], "little")
        stored = json.loads(raw[8 : 8 + head])["o"]
        assert (stored["dtype"], stored["shape"]) == ("F8_E4M3", [B, Q, H, D])
        begin, end = (8 + head + at for at in stored["data_offsets"])
        assert raw[begin:end] == hopfill.attention(*fp8, out_dtype="float8_e4m3fn").tobytes()

    @pytest.mark.parametrize(("name", "shape", "options"), [("k_scale", (3,), ()), ("scale_block", (B, G, 4), ()), ("k_scale", (B, G, 1), (64,))])
    def test_errors_name_the_tensor(self, tmp_path, fp8, name, shape, options):
        save_file(dict(zip("qkv", fp8, strict=True)) | {"k_scale": np.ones(shape, np.float32)}, tmp_path / "in.safetensors")
        flags = [x for block in options for x in ("--scale-block", block)]
        done = command("run", tmp_path / "in.safetensors", "-o", tmp_path / "out.safetensors", "--backend", "cpu", *flags)
        assert done.returncode == 2
        assert done.stderr.startswith(f"hopfill: {name}: ") and done.stderr.count("\n") == 1
