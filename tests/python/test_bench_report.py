"""Goals and README tables from made-up rows."""

import cases
import goals
import pytest
import report
import results

CASES = cases.load()


def rows_with(speedup, f16=1.0, spread=0.0, host_us=3.0, skip=()):
    """A full set of rows: the best peer takes 20 us everywhere, ours 20 / speedup(case)."""
    rows = []
    for case in CASES:
        ours = 20.0 / speedup(case)
        for impl in case.implementations:
            us = {"hopfill": ours if case.dtype == "bf16" else ours / f16, "fa3": 20.0, "gemm": 1500.0, "empty": 1.0}.get(impl, 30.0)
            known = {"run": "r", "gpu": "NVIDIA H100 80GB HBM3", "date": "2026-11-23T08:00:00Z", "version": f"{impl} 1"}
            if impl in skip:
                rows.append(results.row(case, impl, **known, note="not available: no wheel"))
            else:
                rows.append(
                    results.row(case, impl, **known, us=us, us_spread=spread * us, host_us=host_us, kernel="k" if impl == "hopfill" else None)
                )
    return rows


def states(rows):
    return {v.goal.name: v.state for v in goals.verdicts(goals.point_results(rows, CASES))}


def test_all_goals_met():
    assert set(states(rows_with(lambda c: 2.0)).values()) == {"met"}


def test_no_data():
    assert set(states([]).values()) == {"no data"}


def test_each_goal_reads_its_own_points():
    slow = states(rows_with(lambda c: 1.0 if c.case == "1x512 h32/32 hd128 causal" else 2.0))
    assert [name for name, state in slow.items() if state != "met"] == ["1x512: time over the best peer's"]
    slow = states(rows_with(lambda c: 1.07 if c.case == "8x2k h8/8 hd256 full" else 2.0))
    assert [name for name, state in slow.items() if state != "met"] == ["full, 512 to 2k tokens: speedup"]
    slow = states(rows_with(lambda c: 0.99 if c.grid == "ragged" else 2.0))
    assert [name for name, state in slow.items() if state != "met"] == ["ragged batches: speedup"]
    slow = states(rows_with(lambda c: 1.1 if c.case == "1x16k h32/8 hd64 causal" else 2.0))
    assert [name for name, state in slow.items() if state != "met"] == ["4k tokens and longer, hd64: speedup"]


def test_thresholds_are_the_goals():
    by_name = {g.name: g for g in goals.GOALS}
    assert by_name["1x512: time over the best peer's"].show(by_name["1x512: time over the best peer's"].least) == pytest.approx(0.65)
    met = states(rows_with(lambda c: 1 / 0.66))
    assert met["1x512: time over the best peer's"] == "missed" and met["2x512: time over the best peer's"] == "missed"
    assert states(rows_with(lambda c: 2.0, f16=0.96))["FP16, every point: our BF16 time over our FP16 time"] == "missed"
    assert states(rows_with(lambda c: 2.0, host_us=12.5))["host time of a call from Python, us"] == "missed"
    assert states(rows_with(lambda c: 1.09))["geometric mean over all points: speedup"] == "missed"


def test_never_below_means_beyond_the_spread():
    name = "every point: speedup, beyond the spread"
    assert states(rows_with(lambda c: 0.96))[name] == "missed"
    assert states(rows_with(lambda c: 0.96, spread=0.02))[name] == "met"


def test_a_wrong_or_missing_peer_is_not_the_best():
    rows = rows_with(lambda c: 0.5, skip=("fa3",))
    assert states(rows)["every point: speedup, beyond the spread"] == "missed"
    for r in rows:
        if r["impl"] not in ("hopfill", "gemm", "empty", "cudnn"):
            r["note"] = "wrong: RMS error 0.9"
        if r["impl"] == "cudnn" and r["us"]:
            r["us"] = 200.0
    assert states(rows)["every point: speedup, beyond the spread"] == "met"


def test_points_without_data_are_counted():
    rows = [r for r in rows_with(lambda c: 2.0) if r["case"] != "mixed8 h32/8 hd128 causal"]
    assert states(rows)["ragged batches: speedup"] == "met, 1 points without data"


def test_report_rewrites_readme_between_its_markers(tmp_path, monkeypatch):
    readme = tmp_path / "README.md"
    readme.write_text(f"# Title\n\n{report.BEGIN}\nold\n{report.END}\n\nafter\n")
    monkeypatch.setattr(report, "README", readme)
    folder = tmp_path / "results"
    elsewhere = tmp_path / "h100-80gb-hbm3.jsonl"
    results.write(elsewhere, rows_with(lambda c: 1.5))
    assert report.main(["--results", str(folder), "--merge", str(elsewhere)]) == 0
    text = readme.read_text()
    assert text.startswith("# Title\n") and text.endswith("\n\nafter\n") and "old" not in text
    full = (folder / "README.md").read_text()
    assert "| 1x512 | 13.3 | 12.3 |" in text and "**" not in text and "| h8/8 hd256 full | 1.50 | 1.50 | 1.50 | 1.50 | 1.50 | 1.50 | – | – |" in text
    assert "(bench/results/h100-80gb-hbm3-throughput.png)" in text
    for where in (text, full):
        assert "NVIDIA H100 80GB HBM3, 2026-11-23" in where
    assert "8x2k h8/8 hd256 full" in full and "8x2k h8/8 hd256 full" not in text
    for name in ("headline", "throughput", "ragged"):
        assert f"(h100-80gb-hbm3-{name}.png)" in full and (folder / f"h100-80gb-hbm3-{name}.png").stat().st_size < 500_000
    again = text

    def drawn(rows, cases, dtype, slug, folder):
        return [f"{slug}{'-fp8' if dtype == 'e4m3' else ''}-{grid}.png" for grid in ("headline", "ragged", "throughput")]

    monkeypatch.setattr(report, "plot", drawn)
    assert report.main(["--results", str(folder)]) == 0 and readme.read_text() == again


def test_report_needs_rows_and_markers(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(report, "README", tmp_path / "README.md")
    monkeypatch.setattr(report, "plot", lambda *_: [])
    assert report.main(["--results", str(tmp_path)]) == 1
    (tmp_path / "README.md").write_text("nothing")
    results.write(tmp_path / "h200.jsonl", rows_with(lambda c: 2.0))
    assert report.main(["--results", str(tmp_path)]) == 2 and "markers" in capsys.readouterr().err


def test_numbers():
    assert [report.number(x) for x in (0.97, 12.34, 123.4, 1234.0, None, float("nan"))] == ["0.970", "12.3", "123", "1234", "–", "–"]


def later_run(ours_us, fa4_us):
    """A run of fa4, which was not available before, beside ours and the yardstick."""
    us = {"hopfill": ours_us, "fa4": fa4_us, "gemm": 1.0}
    rows = [r for r in rows_with(lambda c: 2.0) if r["impl"] in us]
    return [{**r, "us": us[r["impl"]], "tflops": r["tflops"] * r["us"] / us[r["impl"]]} for r in rows]


def test_a_peer_of_a_later_run_is_compared_with_ours_of_that_run():
    first = rows_with(lambda c: 2.0, skip=("fa4",))  # ours 10 us, the best peer 20
    both = results.add_later(first, later_run(ours_us=4.0, fa4_us=6.0))
    assert {r["ours_us"] for r in both if r["impl"] == "fa4"} == {4.0}
    assert [r for r in both if r["impl"] != "fa4"] == [r for r in first if r["impl"] != "fa4"], "nothing else of the later run"
    assert not results.faults(both, CASES)
    points = [p for p in goals.point_results(both, CASES) if p.case.dtype == "bf16"]
    assert {(p.best["impl"], round(p.speedup, 9), round(p.best["us"], 9)) for p in points} == {("fa4", 1.5, 15.0)}

    shown = results.comparable(both)
    assert results.comparable(shown) == shown, "compared once"
    of = {grid: [c for c in CASES if c.grid == grid and c.dtype == "bf16"] for grid in ("headline", "throughput")}
    assert "| 15.0 | 0.667 |" in report.headline_table(shown, of["headline"])
    assert "| 1.50 |" in report.throughput_table(shown, of["throughput"])
    assert "1.50" in report.summary_table(shown, of["throughput"])
    assert "| fa4 | 0.667 |" in report.means_table(points, shown)
    for text in (report.dtype_section(shown, CASES, "bf16", []), report.dtype_brief(shown, CASES, "bf16")):
        assert f"fa4 was timed later, at {len(points)} of {len(points)} points" in "\n".join(text)


def test_a_later_run_takes_no_place_where_ours_was_not_timed():
    first = rows_with(lambda c: 2.0, skip=("fa4",))
    assert results.add_later(first, [r for r in later_run(4.0, 6.0) if r["impl"] != "hopfill"]) == first
