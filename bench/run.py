#!/usr/bin/env python3
"""Hopfill and its peers side by side on one GPU, interleaved round by round. `run.py --peers` runs all of bench/grids.json.

Rows go to bench/results/<gpu>.jsonl when everything is run, else to out/bench/. report.py makes tables and plots of them.
The Python named by --python (default: $HOPFILL_BENCH_PYTHON, or this one) must have PyTorch with CUDA and what is to be timed.
"""

from __future__ import annotations

import argparse
import os
import secrets
import sys
import time
from pathlib import Path

import results
from cases import DTYPES, FLOOR, GRIDS, OURS, YARDSTICK, load
from gpu_log import GpuLog
from processes import PROCESS_OF, Process
from rounds import Bench, Point, Settings, points_of, speedup

OUT = Path(__file__).resolve().parent.parent / "out" / "bench"


def parse(argv: list[str]) -> argparse.Namespace:
    def names(text: str) -> list[str]:
        return [n for n in text.split(",") if n]

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", action="store_true", help="time the peers too, not only Hopfill, the GEMM yardstick and the empty kernel")
    parser.add_argument("--grids", type=names, default=list(GRIDS), help=f"of {','.join(GRIDS)}")
    parser.add_argument("--dtypes", type=names, default=list(DTYPES), help=f"of {','.join(DTYPES)}")
    parser.add_argument("--only", type=names, default=[], help="implementations, e.g. hopfill,fa3,gemm")
    parser.add_argument("--cases", default="", help="only cases whose name contains this")
    parser.add_argument("--budget", type=float, default=3600.0, metavar="SECONDS", help="stop in time; what is left out gets rows that say so")
    parser.add_argument("--rounds", type=int, default=5, help="least number of rounds (default 5)")
    parser.add_argument("--results", type=Path, help="folder for the rows")
    parser.add_argument("--python", default=os.environ.get("HOPFILL_BENCH_PYTHON") or sys.executable)
    options = parser.parse_args(argv)
    for given, allowed, what in ((options.grids, GRIDS, "grid"), (options.dtypes, DTYPES, "dtype"), (options.only, PROCESS_OF, "implementation")):
        for name in given:
            if name not in allowed:
                parser.error(f"no {what} '{name}'; allowed: {', '.join(allowed)}")
    return options


def chosen_points(options: argparse.Namespace) -> tuple[list[Point], bool]:
    """The points asked for, and whether they are whole grids with every implementation, which alone may replace committed results."""
    allowed = set(options.only) or (set(PROCESS_OF) if options.peers else {OURS, YARDSTICK, FLOOR})
    cases = []
    for case in load():
        kept = tuple(i for i in case.implementations if i in allowed)
        if case.grid in options.grids and case.dtype in options.dtypes and options.cases in case.case and kept:
            cases.append(type(case)(**{k: kept if k == "implementations" else getattr(case, k) for k in case.__dataclass_fields__}))
    whole = options.peers and not options.only and not options.cases
    return points_of(cases), whole


class Progress:
    """A bar where rich is installed, else a line a point."""

    def __init__(self, total: int):
        try:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
        except ImportError:
            self.bar = None
        else:
            self.bar = Progress(TextColumn("{task.description:<60}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            self.bar.start()
            self.task = self.bar.add_task("starting", total=total)

    def step(self, text: str) -> None:
        if self.bar:
            self.bar.update(self.task, advance=1, description=text[:60])
            if not self.bar.console.is_terminal:
                self.say(text)
        else:
            self.say(text)

    def say(self, text: str) -> None:
        if self.bar:
            self.bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, flush=True)

    def close(self) -> None:
        if self.bar:
            self.bar.stop()


def main(argv: list[str]) -> int:
    options = parse(argv)
    points, whole = chosen_points(options)
    if not points:
        print("bench: no case is left by these options", file=sys.stderr)
        return 2
    progress, log = Progress(len(points)), GpuLog()
    run = time.strftime("%Y%m%dT%H%M%S", time.gmtime()) + "-" + secrets.token_hex(3)
    settings = Settings(
        run, options.budget, options.rounds, max(options.rounds, 9), spawn=lambda name: Process(name, options.python), say=progress.say
    )
    bench = Bench(points, settings)
    try:
        bench.start()
        for reason in sorted(set(bench.failed.values())):
            progress.say(f"{', '.join(sorted(n for n, r in bench.failed.items() if r == reason))}: {reason}")
        if not bench.gpu:
            progress.close()
            print("bench: nothing can be timed: PyTorch with CUDA and a GPU are needed (`hopfill bench` times the CPU backend)", file=sys.stderr)
            return 2
        folder = options.results or (results.RESULTS if whole else OUT)
        path = folder / f"{results.gpu_slug(bench.gpu)}.jsonl"
        old = results.read(path)
        progress.say(f"{bench.gpu}, {len(points)} points, run {run}, started in {bench.elapsed():.0f} s; rows go to {path}")

        def after_point(index: int, point: Point, rows: list[results.Row], began: float) -> None:
            rest = bench.skipped(points[index + 1 :], "not run: the run ended early")
            results.write(path, results.replace(old, bench.rows + rest))
            clocks = log.summary(began)
            if clocks:
                first = point.cases[0]
                labels = {"run": run, "date": rows[0]["date"], "grid": first.grid, "case": first.case}
                results.append_clocks(path.with_suffix(".clocks.csv"), [labels | clocks])
            progress.step(describe(point, rows, bench.durations[-1]))

        rows = bench.run(after_point)
        results.write(path, results.replace(old, rows))
    finally:
        bench.close()
        log.close()
        progress.close()
    timed = sum(r["us"] is not None for r in rows)
    print(f"{timed} of {len(rows)} rows timed, the others have a note; {bench.elapsed():.0f} s; {path}")
    for fault in results.faults(rows, [c for p in points for c in p.cases]):
        print(f"bench: {fault}", file=sys.stderr)
    import report

    report.summarise(rows)
    return 0


def describe(point: Point, rows: list[results.Row], seconds: float) -> str:
    parts = [f"{r['impl']}{'@' + r['dtype'] if r['dtype'] != point.cases[0].dtype else ''} {r['us']:.5g}" for r in rows if r["us"]]
    ratio = speedup(rows)
    against = f" | {ratio[0]:.2f}x {ratio[1]}" if ratio else ""
    return f"{point.name}: {', '.join(parts)} us{against} ({seconds:.1f} s)"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
