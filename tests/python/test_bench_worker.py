"""bench/worker.py and bench/problem.py on the CPU, with CUDA's events and graphs replaced. Needs PyTorch; skipped where there is none."""

import contextlib
import dataclasses
import time
import types

import cases
import pytest

torch = pytest.importorskip("torch")
peers = pytest.importorskip("peers")
problem = pytest.importorskip("problem")

CASE = cases.make("headline", "2x70", "bf16", 64, 4, 2, True, 2, 70)
RAGGED = cases.make("ragged", "mixed", "bf16", 64, 4, 2, True, 3, 130, (5, 130, 64))


def fields(case):
    return {k: v for k, v in dataclasses.asdict(case).items() if k != "implementations"}


@pytest.fixture
def worker(monkeypatch):
    class Event:
        def __init__(self, enable_timing):
            self.at = 0.0

        def record(self):
            self.at = time.perf_counter()

        def elapsed_time(self, other):
            return (other.at - self.at) * 1e3

    class Graph:
        def replay(self):
            for call in self.calls:
                call()

    @contextlib.contextmanager
    def graph(recorder, stream):
        recorder.calls = [lambda: time.sleep(1e-4)]
        yield

    fake = types.SimpleNamespace(
        init=lambda: None,
        synchronize=lambda: None,
        empty_cache=lambda: None,
        get_device_properties=lambda _: types.SimpleNamespace(name="NVIDIA H100", multi_processor_count=132),
        Event=Event,
        CUDAGraph=Graph,
        graph=graph,
        Stream=lambda: types.SimpleNamespace(wait_stream=lambda other: None),
        stream=lambda stream: contextlib.nullcontext(),
        current_stream=lambda: None,
    )
    import worker

    monkeypatch.setattr(torch, "cuda", fake)
    monkeypatch.setattr(worker, "Problem", lambda case: problem.Problem(case, "cpu"))
    return worker


@pytest.mark.parametrize("case", [CASE, RAGGED])
def test_ours_is_right_on_the_same_inputs(case):
    p = problem.Problem(case, "cpu")
    call, output = peers.IMPLEMENTATIONS["hopfill"].build(p)
    call()
    rows = p.sampled_rows()
    rms, largest, relative = p.errors(output(), rows, p.reference(rows))
    assert relative < 5e-3 and rms <= largest < 0.1
    assert torch.equal(p.q, problem.Problem(case, "cpu").q)


@pytest.mark.parametrize("shape", [CASE, RAGGED])
@pytest.mark.parametrize(("dtype", "most"), [("e4m3", 5e-2), ("bf16xe4m3", 5e-3)])
def test_ours_in_fp8(shape, dtype, most):
    case = cases.make(shape.grid, "fp8", dtype, 64, 4, 2, True, shape.batch, shape.seq, shape.lengths_kv)
    p = problem.Problem(case, "cpu")
    assert (p.q.dtype == torch.float8_e4m3fn) == p.is_fp8 == (dtype == "e4m3") and p.v.dtype == torch.float8_e4m3fn
    rows = p.sampled_rows()
    reference, relative = p.reference(rows), {}
    for name in ("hopfill", "hopfill-bf16", *(["hopfill-vt"] if p.is_dense else [])):
        call, output = peers.IMPLEMENTATIONS[name].build(p)
        call()
        assert output().dtype == torch.bfloat16
        relative[name] = p.errors(output(), rows, reference)[2]
    assert 5e-4 < relative["hopfill"] < most and relative["hopfill-bf16"] < 5e-3
    assert relative.get("hopfill-vt", relative["hopfill"]) == pytest.approx(relative["hopfill"], rel=0.1)


def test_ours_wants_dense_batches_for_transposed_values():
    case = cases.make("ragged", "fp8", "e4m3", 64, 4, 2, True, 3, 130, RAGGED.lengths_kv)
    with pytest.raises(peers.Unsupported, match="dense"):
        peers.IMPLEMENTATIONS["hopfill-vt"].build(problem.Problem(case, "cpu"))


def test_errors_see_what_is_wrong():
    p = problem.Problem(RAGGED, "cpu")
    rows = p.sampled_rows()
    reference = p.reference(rows)
    assert [len(r) for r in rows] == [5, 64, 64] and rows[1][:2].tolist() == [0, 129]
    assert p.errors(torch.zeros(199, 4, 64), rows, reference)[2] == pytest.approx(1)
    assert not p.errors(torch.full((199, 4, 64), float("nan")), rows, reference)[2] < 1


def test_prepare_warm_measure(worker):
    w = worker.Worker()
    setup = w.setup(["hopfill", "fa2", "fmha_v2"])
    assert setup["gpu"] == "NVIDIA H100" and setup["versions"]["hopfill"].startswith("hopfill 0.") and "fmha_v2" in setup["failed"]
    prepared = w.prepare(fields(CASE), ["hopfill", "hopfill@f16"])["results"]
    assert prepared["hopfill"]["rms_err"] > prepared["hopfill@f16"]["rms_err"] > 0 and "wrong" not in prepared["hopfill"]
    fp8 = w.prepare(fields(CASE), ["hopfill@e4m3", "hopfill@bf16xe4m3"])["results"]
    assert [r["out_dtype"] for r in fp8.values()] == ["bf16", "bf16"] and not any("wrong" in r for r in fp8.values())
    w.prepare(fields(CASE), ["hopfill"])
    assert w.warm("hopfill")["launches"] >= 1 and w.warm("hopfill")["host_us"] > 0
    assert w.measure("hopfill")["us"] > 0
    assert w.release() == {} and not w.built


def test_what_cannot_be_built_is_a_note(worker):
    results = worker.Worker().prepare(fields(RAGGED), ["fa2", "flashinfer-fa3-single", "hopfill"])["results"]
    assert results["fa2"] == {"note": "scaled_dot_product_attention takes dense batches"}
    assert "note" in results["flashinfer-fa3-single"] and "rms_err" in results["hopfill"]


def test_a_lost_context_is_fatal(worker, monkeypatch):
    def lost(p):
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nmore")

    monkeypatch.setitem(peers.IMPLEMENTATIONS, "fa2", dataclasses.replace(peers.IMPLEMENTATIONS["fa2"], build=lost))
    results = worker.Worker().prepare(fields(CASE), ["fa2", "hopfill"])["results"]
    assert results == {"fa2": {"note": "RuntimeError: CUDA error: an illegal memory access was encountered more", "fatal": True}}


def test_graphs_stay_within_their_limits(worker):
    assert [worker.launches_in_graph(us) for us in (5, 250, 300, 9_999, 27_000)] == [40, 40, 33, 1, 1]


class TestAccuracy:
    """bench/accuracy.py on the cpu backend."""

    def test_rows(self):
        accuracy = pytest.importorskip("accuracy")
        options = types.SimpleNamespace(device="cpu", head_dims=[64], keys=[256], needle_keys=512, seeds=2, budget=100)
        rows = []
        accuracy.measure("hopfill", options, rows.append)
        assert [r.get("input") for r in rows] == ["gaussian", "peaky", "rising", "large", None]
        assert all(1e-6 < r["relative"] < 5e-3 and r["out_dtype"] == "bf16" for r in rows[:4])
        assert rows[4]["right"] == 2
        options.budget = -1
        accuracy.measure("hopfill", options, rows.append)
        assert len(rows) == 10 and all(r["note"].startswith("not run") for r in rows[5:])

    def test_lengths_of_the_other_head_dimensions(self):
        accuracy = pytest.importorskip("accuracy")
        options = types.SimpleNamespace(head_dims=[128, 64], keys=list(accuracy.KEYS), needle_keys=65536, seeds=100)
        tests = accuracy.tests_of(options)
        assert [t["keys"] for t in tests if t["head_dim"] == 64 and t["input"] == "large"] == [512, 4096, 65536]
        assert sum(t["head_dim"] == 128 for t in tests) == 4 * 5 + 1 and tests[20]["test"] == "needle"

    def test_a_lost_needle_is_seen(self):
        accuracy = pytest.importorskip("accuracy")
        p, place = accuracy.needle_of(0, 64, 512, "cpu")
        code = p.v.float()[place, range(2)]
        out = code[None].repeat(512, 1, 1)
        assert accuracy.read_back(p, place, out)
        out[-1, 1, 7] *= -1
        assert not accuracy.read_back(p, place, out)

    def test_what_is_not_here_is_a_note(self):
        accuracy = pytest.importorskip("accuracy")
        rows = []
        accuracy.measure("fmha_v2", types.SimpleNamespace(device="cpu"), rows.append)
        assert len(rows) == 1 and rows[0]["note"].startswith("not available")
