"""The bench's logic without a GPU: grids, rounds, budgets, dying processes, rows."""

import collections
import json

import cases
import processes
import pytest
import results
import rounds
from rounds import Bench, Settings, points_of


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


class Fake:
    """A worker process whose implementations take given times; `log` records what was asked of all of them, in order."""

    def __init__(self, process, clock, log, times, dies_at=None, seconds=0.1):
        self.process, self.clock, self.log, self.times, self.dies_at, self.seconds = process, clock, log, times, dies_at, seconds
        self.queue, self.names = collections.deque(), []

    def send(self, do, **arguments):
        self.log.append((do, self.process, arguments.get("name")))
        if self.dies_at == do:
            raise processes.WorkerDied("its process ended with status -11")
        self.queue.append((do, arguments))

    def receive(self, seconds):
        do, arguments = self.queue.popleft()
        self.clock.now += self.seconds
        if do == "setup":
            self.names = arguments["names"]
            failed = {n: "not available: no wheel" for n in self.names if n == "fa4"}
            versions = {n: f"{n} 1.0" for n in self.names if n not in failed}
            return {"versions": versions, "failed": failed, "keys": {"kernel_a": "abc"}, "gpu": "NVIDIA H100 80GB HBM3", "sms": 132}
        if do == "prepare":
            return {"results": {n: self.prepared(n) for n in arguments["names"]}}
        if do == "warm":
            return {"host_us": 3.0, "launches": 40}
        times = self.times[arguments["name"]]
        return {"us": times.popleft() if isinstance(times, collections.deque) else times}

    def prepared(self, name):
        if name == "fa2":
            return {"note": "takes dense batches"}
        result = {"rms_err": 1e-3, "max_err": 5e-3}
        if name.startswith("hopfill"):
            result["kernel"] = "kernel_a"
        if name == "fa3":
            result["wrong"] = "wrong: RMS error 0.9"
        return result

    def request(self, do, seconds, **arguments):
        self.send(do, **arguments)
        return self.receive(seconds)

    def kill(self):
        pass

    def close(self):
        pass


TIMES = collections.defaultdict(lambda: 20.0, {"hopfill": 10.0, "hopfill@f16": 10.1, "gemm": 1400.0, "fa3": 5.0, "flashinfer-fa3": 13.0})


def bench(points=None, times=TIMES, budget=1e6, dies=None, **settings):
    clock, log = Clock(), []

    def spawn(process):
        return Fake(process, clock, log, times, dies_at=(dies or {}).get(process))

    points = points or points_of([c for c in cases.load() if c.case == "1x512 h32/32 hd128 causal"])
    made = Bench(points, Settings("run-1", budget, clock=clock, spawn=spawn, say=lambda text: None, **settings))
    made.start()
    return made, log


def run(made):
    done = []
    rows = made.run(lambda index, point, rows, began: done.append(point.name))
    made.close()
    return rows, done


def by_impl(rows, dtype="bf16"):
    return {r["impl"]: r for r in rows if r["dtype"] == dtype}


class TestGrids:
    def test_the_file_is_what_the_code_makes(self):
        assert cases.load() == cases.all_cases()
        assert cases.GRIDS_JSON.read_text() == cases.to_json(cases.all_cases())

    def test_names_are_unique_and_shared_between_dtypes(self):
        names = [(c.grid, c.case, c.dtype) for c in cases.load()]
        assert len(names) == len(set(names))
        of = {dtype: {n[:2] for n in names if n[2] == dtype} for dtype in cases.DTYPES}
        assert of["e4m3"] == of["bf16"] > of["f16"] > of["bf16xe4m3"]
        assert {grid for grid, _ in of["bf16"] - of["f16"]} == {"few"}

    def test_grids_of_the_goals(self):
        found = {c.case for c in cases.load()}
        for wanted in (
            "4x512 h32/32 hd128 causal",
            "1x64k h16/16 hd128 causal",
            "32x512 h8/8 hd256 full",
            "2x8k h32/8 hd64 causal",
            "mixed8 h32/8 hd128 causal",
        ):
            assert wanted in found
        assert sum(c.grid == "ragged" and c.dtype == "bf16" for c in cases.load()) == 4

    def test_flops(self):
        by_name = {c.case: c for c in cases.all_cases() if c.dtype == "bf16"}
        assert by_name["1x16k h16/16 hd128 full"].flops == 4 * 16 * 16384**2 * 128
        assert by_name["1x16k h16/16 hd128 causal"].flops == 2 * 16 * 16384**2 * 128
        lengths = cases.MIXED_LENGTHS
        assert by_name["mixed8 h32/8 hd128 causal"].flops == 2 * 32 * 128 * sum(n * n for n in lengths)

    def test_few_heads(self):
        few = [c for c in cases.load() if c.grid == "few"]
        bf16, fp8 = ([c for c in few if c.dtype == dtype] for dtype in ("bf16", "e4m3"))
        labels = "1x2k, 1x4k, 1x8k, 512 of 8k, 512 of 32k, 2k of 32k, 128 of 16k, 1x2k, 1x4k, 1x8k, 2k of 16k"
        assert ", ".join(c.label for c in bf16) == ", ".join(c.label for c in fp8) == labels and len(few) == 22
        assert [c.kind for c in bf16] == 7 * ["h8/1 hd128 causal"] + 4 * ["h4/1 hd128 causal"]
        assert all(c.case == f"{c.label} {c.kind}" for c in few) and bf16[3].sequences() == [(512, 8192)]
        assert bf16[3].flops == 4 * 8 * 128 * (512 * 8192 - 512**2 // 2)
        assert set(bf16[3].implementations) == {"hopfill", *cases.PEERS, "flashinfer-fa2-nosplit", "fa3-split", "gemm"}
        assert fp8[3].implementations == ("hopfill", *cases.FP8_PEERS, "fa3-vllm-split", "gemm")

    def test_variants_are_of_peers(self):
        timed = {i for c in cases.load() for i in c.implementations}
        assert timed - set(cases.NOT_PEERS) - set(cases.PEERS) == set(cases.VARIANTS)
        assert all(processes.PROCESS_OF[v] == processes.PROCESS_OF[peer] for v, peer in cases.VARIANTS.items())

    def test_every_implementation_has_a_process(self):
        assert {i for c in cases.load() for i in c.implementations} == set(processes.PROCESS_OF)


class TestRounds:
    def test_rows_account_for_everything(self):
        made, _ = bench()
        rows, done = run(made)
        assert done == ["headline 1x512 h32/32 hd128 causal"]
        assert results.faults(rows, [c for p in made.points for c in p.cases]) == []
        assert all(list(r) == list(results.FIELDS) for r in rows)
        ours = by_impl(rows)["hopfill"]
        assert (ours["us"], ours["us_spread"], ours["host_us"], ours["kernel"], ours["key"]) == (10.0, 0.0, 3.0, "kernel_a", "abc")
        assert ours["tflops"] == round(2 * 32 * 512**2 * 128 / 10 / 1e6, 1) and ours["gpu"] == "NVIDIA H100 80GB HBM3"
        assert by_impl(rows, "f16")["hopfill"]["us"] == 10.1
        assert by_impl(rows)["gemm"]["tflops"] == round(2 * 8192**3 / 1400 / 1e6, 1)
        assert by_impl(rows)["fa2"]["note"] == "takes dense batches" and by_impl(rows)["fa2"]["us"] is None
        assert by_impl(rows)["fa4"]["note"] == "not available: no wheel"

    def test_fp8_points_stand_alone(self):
        points = points_of([c for c in cases.load() if c.case == "1x512 h32/32 hd128 causal" and c.dtype == "e4m3"])
        times = collections.defaultdict(lambda: 20.0, {"hopfill": 10.0, "hopfill-vt": 8.0, "hopfill-bf16": 9.0, "gemm": 700.0, "cudnn-fe": 12.0})
        rows, _ = run(bench(points, times)[0])
        mine = by_impl(rows, "e4m3")
        assert results.faults(rows, points[0].cases) == []
        assert set(mine) == set(points[0].cases[0].implementations) and mine["hopfill"]["out_dtype"] == "bf16"
        assert mine["gemm"]["note"] == "yardstick: a GEMM of 8192^3 in e4m3 in the same rounds"
        assert rounds.speedup(rows) == (1.2, "cudnn-fe")

    def test_a_wrong_peer_is_no_best_peer(self):
        rows, _ = run(bench()[0])
        assert by_impl(rows)["fa3"]["us"] == 5.0 and by_impl(rows)["fa3"]["note"].startswith("wrong")
        assert rounds.speedup(rows) == (1.3, "flashinfer-fa3")

    def test_every_round_has_everyone_once_in_changing_order(self):
        made, log = bench()
        run(made)
        measured = [name for do, _, name in log if do == "measure"]
        count = len(set(measured))
        orders = [tuple(measured[i : i + count]) for i in range(0, len(measured), count)]
        assert len(orders) == 5 and all(len(set(order)) == count for order in orders) and len(set(orders)) > 1
        assert {"hopfill", "hopfill@f16", "gemm", "empty", "cudnn"} <= set(measured)

    def test_noise_takes_more_rounds(self):
        noisy = collections.deque([10, 12, 10, 13, 10, 12, 10, 13, 10])
        made, log = bench(times=collections.defaultdict(lambda: 20.0, {"hopfill": noisy}))
        rows, _ = run(made)
        assert sum(do == "measure" and name == "hopfill" for do, _, name in log) == 9
        assert by_impl(rows)["hopfill"]["us"] == 10 and by_impl(rows)["hopfill"]["us_spread"] == 2

    def test_noise_takes_no_more_rounds_than_the_time_allows(self):
        made, log = bench(times=collections.defaultdict(lambda: 20.0, {"hopfill": collections.deque([10, 13] * 5)}))
        made.settings.budget_s = made.elapsed() + 6.0
        run(made)
        assert sum(do == "measure" and name == "hopfill" for do, _, name in log) == 5

    def test_the_budget_leaves_notes(self):
        points = points_of(cases.load())
        made, _ = bench(points, budget=60)
        rows, done = run(made)
        assert 1 <= len(done) < len(points) and made.elapsed() < 70
        assert results.faults(rows, cases.load()) == []
        assert any(r["note"] == "not run: the time budget of 60 s was used up" for r in rows)

    def test_gqa_comes_last(self):
        order = [p.cases[0] for p in points_of(cases.load())]
        assert order[0].grid == "headline"
        first = next(i for i, c in enumerate(order) if c.grid == "throughput" and c.heads != c.kv_heads)
        assert all(c.heads != c.kv_heads for c in order[first:])

    @pytest.mark.parametrize("at", ["prepare", "warm", "measure"])
    def test_a_process_that_dies_takes_only_its_own_along(self, at):
        made, log = bench(dies={"flashinfer": at})
        rows, _ = run(made)
        mine = by_impl(rows)
        for name, row in mine.items():
            if processes.PROCESS_OF[name] == "flashinfer":
                assert row["us"] is None and row["note"] == "its process ended with status -11"
        assert mine["hopfill"]["us"] == 10.0 and mine["cudnn"]["us"] == 20.0

    def test_a_dead_process_is_started_again_but_not_for_ever(self):
        points = points_of([c for c in cases.load() if c.grid == "headline"])
        made, log = bench(points, dies={"flashinfer": "measure"})
        rows, _ = run(made)
        assert sum(do == "setup" and process == "flashinfer" for do, process, _ in log) == 1 + rounds.RESTARTS
        assert by_impl(rows)["flashinfer-fa3"]["note"] == "its process died 3 times"

    def test_a_process_that_never_starts(self):
        made, _ = bench(dies={"torch": "setup"})
        rows, _ = run(made)
        assert results.faults(rows, [c for p in made.points for c in p.cases]) == []
        assert by_impl(rows)["gemm"]["us"] is None and by_impl(rows)["hopfill"]["us"] == 10.0


class TestProcess:
    """processes.Process with small real programs in place of worker.py."""

    def start(self, tmp_path, monkeypatch, program):
        script = tmp_path / "worker.py"
        script.write_text(program)
        monkeypatch.setattr(processes, "WORKER", script)
        return processes.Process("test")

    def test_answers(self, tmp_path, monkeypatch):
        worker = self.start(tmp_path, monkeypatch, "import sys\nfor line in sys.stdin: print(line, end='', flush=True)")
        assert worker.request("warm", 20, name="fa3") == {"do": "warm", "name": "fa3"}
        worker.close()
        assert worker.process.returncode == 0

    def test_death_says_its_last_words(self, tmp_path, monkeypatch):
        worker = self.start(tmp_path, monkeypatch, "import sys; sys.stdin.readline(); sys.exit('no such symbol')")
        with pytest.raises(processes.WorkerDied, match="status 1: no such symbol"):
            worker.request("setup", 20, names=[])

    def test_silence_ends_it(self, tmp_path, monkeypatch):
        worker = self.start(tmp_path, monkeypatch, "import time; time.sleep(60)")
        with pytest.raises(processes.WorkerDied, match="no answer in 0 s"):
            worker.request("setup", 0.3, names=[])
        assert worker.process.returncode == -9


class TestResults:
    def row(self, grid="headline", impl="hopfill", dtype="bf16", **known):
        case = next(c for c in cases.load() if c.grid == grid and c.dtype == dtype)
        return results.row(case, impl, **known)

    def test_a_run_replaces_its_grid_and_dtype(self):
        old = [
            self.row(run="a", us=1.0),
            self.row(run="a", impl="fa3", us=1.0),
            self.row(grid="ragged", run="a", us=1.0),
            self.row(dtype="f16", run="a", us=1.0),
        ]
        new = [self.row(run="b", us=2.0)]
        assert [(r["run"], r["grid"], r["dtype"]) for r in results.replace(old, new)] == [
            ("a", "ragged", "bf16"),
            ("a", "headline", "f16"),
            ("b", "headline", "bf16"),
        ]

    def test_files(self, tmp_path):
        path = tmp_path / "new" / "h100.jsonl"
        assert results.read(path) == []
        rows = [self.row(run="a", us=1.5), self.row(run="a", impl="fa3", note="no")]
        results.write(path, rows)
        assert results.read(path) == rows and len(path.read_text().splitlines()) == 2
        assert json.loads(path.read_text().splitlines()[0])["kernel"] is None

    def test_unknown_fields_are_refused(self):
        with pytest.raises(ValueError, match="microseconds"):
            self.row(microseconds=3)

    def test_faults(self):
        case = next(c for c in cases.load() if c.case.startswith("1x512") and c.dtype == "f16")
        good = results.row(case, "hopfill", us=1.0)
        assert results.faults([good], [case]) == []
        assert "no row" in results.faults([], [case])[0]
        assert "twice" in results.faults([good, good], [case])[0]
        assert "neither" in results.faults([results.row(case, "hopfill")], [case])[0]
        assert "fields" in results.faults([good | {"extra": 1}], [case])[0]

    def test_summary(self):
        assert results.summary([5.0]) == (5.0, 0.0)
        assert results.summary([1, 2, 3, 4, 100]) == (3, 2)

    @pytest.mark.parametrize(("name", "slug"), [("NVIDIA H100 80GB HBM3", "h100-80gb-hbm3"), ("NVIDIA H200", "h200"), ("NVIDIA H20", "h20")])
    def test_slug(self, name, slug):
        assert results.gpu_slug(name) == slug

    def test_committed_rows_account_for_every_grid_they_touch(self):
        for path in results.RESULTS.glob("*.jsonl"):
            if path.name.startswith("accuracy-"):
                continue
            rows = results.read(path)
            touched = {(r["grid"], r["dtype"]) for r in rows}
            mine = [c for c in cases.load() if (c.grid, c.dtype) in touched]
            known = {(c.grid, c.dtype) for c in mine}
            assert results.faults([r for r in rows if (r["grid"], r["dtype"]) in known], mine) == []


def test_gpu_log_summarises_what_was_seen_since():
    from gpu_log import GpuLog

    log = GpuLog.__new__(GpuLog)
    log.samples = []
    for now, line in ((1, "1980, 100.5, 40"), (2, "1500, 690.0, 60"), (3, "1400, 695.2, 61"), (4, "[N/A], 1, 2"), (5, "1300, 70")):
        log.add(now, line)
    seen = log.summary(2)
    assert seen["samples"] == 2 and seen["sm_mhz_min"] == 1400 and seen["watt_max"] == 695.2 and seen["celsius_max"] == 61
    assert log.summary(9) == {} and set(seen) <= set(results.CLOCK_FIELDS)


def test_options(capsys):
    import run as command

    points, whole = command.chosen_points(command.parse(["--peers", "--cases", "1x512", "--dtypes", "bf16"]))
    assert len(points) == 1 and not whole
    points, whole = command.chosen_points(command.parse(["--peers"]))
    assert whole and len(points) == sum(c.dtype == "bf16" for c in cases.load())
    points, _ = command.chosen_points(command.parse([]))
    assert {i for p in points for _, _, i in p.entries()} == {"hopfill", "gemm", "empty"}
    points, whole = command.chosen_points(command.parse(["--peers", "--grids", "few"]))
    assert whole and len(points) == 11 and {c.dtype for p in points for c in p.cases} == {"bf16", "e4m3"}
    with pytest.raises(SystemExit):
        command.parse(["--only", "flashattention-9"])
    assert "allowed: hopfill" in capsys.readouterr().err


class TestReport:
    """Tables and goals of made-up times."""

    def rows(self, dtype, times):
        points = points_of([c for c in cases.load() if c.dtype == dtype and (c.grid == "headline" or c.case.startswith(("1x16k", "mixed8")))])
        rows, _ = run(bench(points, collections.defaultdict(lambda: 20.0, times))[0])
        return [r | {"out_dtype": "e4m3"} if r["impl"] == "cudnn-fe" and dtype == "e4m3" else r for r in rows]

    def test_goals_of_fp8(self):
        import goals

        rows = self.rows("e4m3", {"hopfill": 16.0, "hopfill-vt": 15.0, "hopfill-bf16": 17.0, "cudnn-fe": 16.5, "fa3-vllm": 19.0})
        found = {v.goal.name: v for v in goals.verdicts([p for p in goals.point_results(rows, cases.load(), "e4m3") if p.rows])}
        long = "4k tokens and longer, hd128"
        assert found[f"{long}: speedup over 16-bit output"].value == 19 / 16
        assert found[f"{long}, V given transposed: speedup over 16-bit output"].value == 19 / 15
        assert found[f"{long}: speedup over cuDNN, which writes e4m3"].state == "missed"
        assert found["2x512: time over our BF16 kernel's"].value == 17 / 16
        assert found["4k tokens and longer, hd64: speedup"].value == 16.5 / 16
        assert set(found) == {g.name for g in goals.FP8_GOALS}

    def test_sections(self):
        import report

        rows = self.rows("bf16", {"hopfill": 10.0}) + self.rows("e4m3", {"hopfill": 8.0, "hopfill-vt": 7.0, "cudnn-fe": 12.0})
        text = report.gpu_section(rows, cases.load(), {"e4m3": ["h100-fp8-headline.png"]})
        assert "| 1x512 | 10.0 | -10.0 | 20.0 |" in text  # BF16
        assert "| 1x512 | 8.00 | -12.0 | 7.00 | 20.0 | 20.0 | 20.0 | 20.0 | 12.0 | 0.667 |" in text  # V transposed, our BF16, four peers
        assert "cuDNN writes E4M3" in text and "Goals, BF16:" in text and "![h100-fp8-headline.png]" in text and "keys and values" not in text
        only = report.gpu_section(self.rows("bf16xe4m3", {"hopfill": 8.0}), cases.load(), {})
        assert "| 1x16k h16/16 hd128 causal |" in only and "Hopfill / best" not in only and "All BF16" not in only

    def few(self, dtype, times):
        points = points_of([c for c in cases.load() if c.dtype == dtype and c.grid == "few"])
        return run(bench(points, collections.defaultdict(lambda: 20.0, times))[0])[0]

    def test_few_heads_have_a_table_of_their_own(self):
        import report

        rows = self.rows("bf16", {"hopfill": 10.0})
        text = report.gpu_section(rows, cases.load(), {})
        assert "Few heads" not in text and "of 32k" not in text
        rows += self.few("bf16", {"hopfill": 10.0, "fa3-vllm": 16.0, "flashinfer-fa2-nosplit": 15.0})
        text = report.gpu_section(rows, cases.load(), {})
        few = text.index("Few heads")
        assert text.index("Llama-2-7B") < few < text.index("| 512 of 8k h8/1 hd128 causal |") < text.index("BF16, TFLOP/s; 16k tokens")
        assert text[few:].count("| 1.50 |\n") == 11 and "Goals, BF16 (few heads have none):" in text and "16k tokens in every split" in text
        assert "1.50 to 1.50, geometric mean 1.50 of 11 points." in report.gpu_brief(rows, cases.load(), {})

    def test_a_split_that_is_faster_stands_for_its_peer(self):
        import report

        rows = self.few("bf16", {"hopfill": 10.0, "fa3": 14.0, "fa3-split": 8.0})
        rows = [r | {"note": None} if r["impl"] == "fa3" else r for r in rows]  # the fake calls it wrong
        fp8 = self.few("e4m3", {"hopfill": 10.0, "fa3-vllm": 14.0, "fa3-vllm-split": 12.5})
        for of, share in ((rows, "0.800"), (fp8, "1.25")):
            table = report.throughput_table(of, [c for c in cases.load() if c.grid == "few" and c.dtype == of[0]["dtype"]])
            assert table.splitlines()[2].endswith(f"| {share} |") and "split" not in table

    def test_goals_are_not_of_few_heads(self):
        import goals

        for dtype in ("bf16", "e4m3"):
            few = [p for p in goals.point_results(self.few(dtype, {"hopfill": 1000.0}), cases.load(), dtype) if p.rows]
            assert len(few) == 11 and all(p.speedup < 0.1 for p in few)
            assert {v.state for v in goals.verdicts(few)} == {"no data"}

    def test_plots_by_kind_of_head(self, tmp_path):
        import report

        pytest.importorskip("matplotlib")
        assert report.plot(self.few("e4m3", {"hopfill": 10.0}), cases.load(), "e4m3", "h100", tmp_path) == ["h100-fp8-few.png"]

    def test_accuracy(self):
        import accuracy_report

        def row(impl, keys, relative, **more):
            return {"test": "error", "impl": impl, "input": "gaussian", "head_dim": 128, "keys": keys, "relative": relative, "right": None} | more

        needle = row("hopfill", 65536, None, test="needle", right=99, of=100)
        ours = [row("hopfill", 4096, 0.020), row("hopfill", 65536, 0.021), row("hopfill-vt", 4096, 0.001)]
        rows = [*ours, row("fa3-vllm", 4096, 0.025), row("cudnn-fe", 4096, None), needle]
        (_, _, worst, met), (_, _, growth, grown), (_, _, found, read) = accuracy_report.goals(rows)
        assert (worst[:5], met, growth[:4], grown, found, read) == ("0.800", "met", "1.05", "met", "99 of 100", "missed")
        text = accuracy_report.section(rows)
        assert "| gaussian, 4096 | 2.00e-02 | 1.00e-03 | 2.50e-02 |" in text and "hopfill 99 of 100" in text


class TestChunks:
    """Fewer queries than keys, on the CPU. Needs PyTorch; skipped where there is none."""

    @pytest.fixture
    def problem(self):
        pytest.importorskip("torch")
        import problem

        return lambda dtype="bf16", queries=70, keys=200: problem.Problem(
            cases.make("few", "chunk", dtype, 64, 4, 1, True, 1, queries, keys=keys), "cpu"
        )

    @pytest.mark.parametrize("dtype", ["bf16", "e4m3"])
    def test_the_reference_sees_the_keys_before_the_chunk(self, problem, dtype):
        import torch

        p = problem(dtype)
        rows = p.sampled_rows()
        assert p.q.shape == (70, 4, 64) and p.k.shape == p.v.shape == (200, 1, 64) and p.new_output().shape == (70, 4, 64)
        q, k, v = (t.float().double().transpose(0, 1) for t in (p.q, p.k, p.v))
        hidden = torch.ones(70, 200, dtype=torch.bool).triu(200 - 70 + 1)
        expected = torch.softmax((q @ k.mT * p.scale).masked_fill(hidden, float("-inf")), -1) @ v
        (found,) = p.reference(rows)
        assert torch.allclose(found, expected.transpose(0, 1)[rows[0]], atol=1e-12)

    def test_what_has_no_such_mask_says_so(self, problem):
        import peers

        with pytest.raises(peers.Unsupported, match="aligned bottom-right"):
            peers.IMPLEMENTATIONS["cudnn"].build(problem())

    def test_pytorch_is_given_the_mask_that_is_aligned_bottom_right(self, problem, monkeypatch):
        import peers
        import torch

        seen = []
        monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", lambda *tensors, **options: seen.append(options) or tensors[0])
        for queries in (70, 200):
            call, _ = peers.IMPLEMENTATIONS["fa2"].build(problem(queries=queries))
            call()
        chunk, whole = seen
        mask = chunk.pop("attn_mask")
        assert (mask.variant.name, mask.seq_len_q, mask.seq_len_kv) == ("LOWER_RIGHT", 70, 200)
        assert chunk == {"is_causal": False, "enable_gqa": True} and whole == {"is_causal": True, "enable_gqa": True}

    def test_splits(self, problem, monkeypatch):
        import peers
        import torch

        seen = []

        for op, called in (
            (torch.ops.flash_attn_3, {"fwd": lambda *_, num_splits, **more: seen.append(num_splits)}),
            (torch.ops._vllm_fa3_C, {"fwd": lambda *a: seen.append(a[-7]), "get_scheduler_metadata": lambda *a: seen.append(a[-3])}),
        ):
            for name, instead in called.items():
                monkeypatch.setattr(op, name, instead, raising=False)
        for name in ("fa3", "fa3-split", "fa3-vllm", "fa3-vllm-split"):
            call, _ = peers.IMPLEMENTATIONS[name].build(problem())
            call()
        assert seen == [1, 0, 1, 1, 0, 0]
