"""PyTorch tensors: on the CPU where PyTorch is installed, on the GPU where there is one. Skipped elsewhere: hopfill needs neither."""

import hopfill
import pytest

torch = pytest.importorskip("torch")
F = torch.nn.functional

hopper = torch.cuda.is_available() and torch.cuda.get_device_capability()[0] == 9
on_gpu = pytest.mark.skipif(not hopper, reason="no Hopper GPU")
DEVICES = ["cpu", pytest.param("cuda", marks=on_gpu)]


def make(device, batch=2, seq=70, heads=8, kv_heads=2, d=64, dtype=torch.bfloat16, seed=3):
    generator = torch.Generator().manual_seed(seed)

    def normal(heads):
        return torch.randn(batch, seq, heads, d, generator=generator).to(dtype).to(device)

    return normal(heads), normal(kv_heads), normal(kv_heads)


def expected(q, k, v, causal=False):
    q, k, v = (t.transpose(1, 2).double() for t in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True).transpose(1, 2)


def close(actual, wanted, tolerance=2e-2):
    torch.testing.assert_close(actual.double(), wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("causal", [False, True])
def test_agrees_with_pytorch(device, dtype, causal):
    q, k, v = make(device, dtype=dtype)
    out = hopfill.attention(q, k, v, causal=causal)
    assert type(out) is torch.Tensor and out.dtype == dtype and out.device == q.device
    close(out, expected(q, k, v, causal))


def test_float32_on_the_cpu():
    q, k, v = make("cpu", dtype=torch.float32)
    close(hopfill.attention(q, k, v), expected(q, k, v), 1e-5)


@pytest.mark.parametrize("device", DEVICES)
def test_lse_and_out(device):
    q, k, v = make(device)
    out = torch.full_like(q, float("nan"))
    result, lse = hopfill.attention(q, k, v, out=out, return_lse=True)
    assert result is out and lse.dtype == torch.float32 and lse.shape == (2, 8, 70) and lse.device == q.device
    close(out, expected(q, k, v))
    logits = q.transpose(1, 2).double() @ k.transpose(1, 2).double().repeat_interleave(4, 1).mT / 8
    close(lse, logits.logsumexp(-1))


@pytest.mark.parametrize("device", DEVICES)
def test_transposed_layout_is_kept(device):
    """[batch, heads, seq, head_dim] memory, as PyTorch's own attention has it."""
    q, k, v = (t.transpose(1, 2).contiguous().transpose(1, 2) for t in make(device))
    out = hopfill.attention(q, k, v)
    assert out.stride() == q.stride()
    close(out, expected(q, k, v))


@pytest.mark.parametrize("device", DEVICES)
def test_packed(device):
    q, k, v = make(device)
    offsets = torch.tensor([0, 70, 140], dtype=torch.int32, device=device)
    options = {"cu_seqlens_q": offsets, "cu_seqlens_k": offsets, "max_seqlen_q": 70, "max_seqlen_k": 70, "causal": True}
    out, lse = hopfill.attention(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1), return_lse=True, **options)
    assert out.shape == (140, 8, 64) and lse.shape == (8, 140)
    close(out.unflatten(0, (2, 70)), expected(q, k, v, causal=True))


def test_gradients_are_refused():
    q, k, v = make("cpu")
    with pytest.raises(hopfill.UnsupportedError, match="q: requires_grad"):
        hopfill.attention(q.requires_grad_(), k, v)
    with torch.no_grad():
        close(hopfill.attention(q, k, v), expected(q, k, v))
    weight = torch.nn.Parameter(v.float())
    with pytest.raises(hopfill.UnsupportedError, match="v: requires_grad"):
        hopfill.attention(q.detach().float(), k.float(), weight)


def test_frameworks_do_not_mix():
    q, k, v = make("cpu", dtype=torch.float32)
    with pytest.raises(TypeError, match="v: expected a torch.Tensor"):
        hopfill.attention(q, k, v.numpy())


@pytest.mark.parametrize("device", DEVICES)
def test_int64_offsets_are_refused(device):
    q, k, v = (t.flatten(0, 1) for t in make(device))
    offsets = torch.tensor([0, 70, 140], device=device)
    with pytest.raises(ValueError, match="cu_seqlens_q"):
        hopfill.attention(q, k, v, cu_seqlens_q=offsets, cu_seqlens_k=offsets)


@on_gpu
class TestGpu:
    def test_devices_do_not_mix(self):
        q, k, v = make("cuda")
        with pytest.raises(ValueError, match="k"):
            hopfill.attention(q, k.cpu(), v)

    def test_strides_that_tma_cannot_address_are_refused(self):
        q, k, v = make("cuda")
        odd = torch.empty(2, 70, 8, 65, dtype=q.dtype, device="cuda")[..., :64]
        with pytest.raises(ValueError, match="q"):
            hopfill.attention(odd, k, v)

    def test_current_stream(self):
        """Work queued before on the stream is seen, and later work sees the result, without a synchronisation."""
        q, k, v = make("cuda")
        wanted = expected(q, k, v)
        hopfill.attention(q, k, v)
        late = torch.zeros_like(q)
        with torch.cuda.stream(torch.cuda.Stream()) as _:
            torch.cuda._sleep(20_000_000)
            late.copy_(q)
            out = hopfill.attention(late, k, v) + 0
        torch.cuda.synchronize()
        close(out, wanted)

    def test_given_stream(self):
        q, k, v = make("cuda")
        side, out = torch.cuda.Stream(), torch.empty_like(q)
        late = torch.zeros_like(q)
        torch.cuda.synchronize()
        with torch.cuda.stream(side):
            torch.cuda._sleep(20_000_000)
            late.copy_(q)
        for stream in (side, side.cuda_stream):
            hopfill.attention(late, k, v, out=out, stream=stream)
        side.synchronize()
        close(out, expected(q, k, v))

    def test_graph_replays_with_new_values(self):
        q, k, v = make("cuda")
        out = torch.empty_like(q)
        hopfill.attention(q, k, v, causal=True, out=out)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            hopfill.attention(q, k, v, causal=True, out=out)
        for seed in (5, 6):
            for to, new in zip((q, k, v), make("cuda", seed=seed), strict=True):
                to.copy_(new)
            out.fill_(float("nan"))
            graph.replay()
            torch.cuda.synchronize()
            close(out, expected(q, k, v, causal=True))

    def test_one_graph_serves_changing_lengths(self):
        q, k, v = (t.flatten(0, 1) for t in make("cuda"))
        offsets = torch.tensor([0, 70, 140], dtype=torch.int32, device="cuda")
        out = torch.empty_like(q)

        def call():
            hopfill.attention(q, k, v, causal=True, cu_seqlens_q=offsets, cu_seqlens_k=offsets, out=out)

        call()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            call()
        for middle in (1, 70, 139):
            offsets[1] = middle
            graph.replay()
            torch.cuda.synchronize()
            for part in (slice(0, middle), slice(middle, 140)):
                close(out[None, part], expected(q[None, part], k[None, part], v[None, part], causal=True))

    def test_same_bits_as_before(self):
        q, k, v = make("cuda", seq=513)
        first = hopfill.attention(q, k, v, causal=True)
        assert all(torch.equal(first, hopfill.attention(q, k, v, causal=True)) for _ in range(20))
