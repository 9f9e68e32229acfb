#!/usr/bin/env python3
"""README's tables and plots, from bench/results.

report.py                 rewrites README.md between its bench markers, and bench/results/<gpu>-<grid>.png
report.py --merge FILES   first takes rows of runs made elsewhere (each replaces all rows of its grid and dtype)
report.py --print         tables and goals to the terminal only
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import results
from cases import FLOOR, GRIDS, OURS, SHORT_PEERS, YARDSTICK, Case, load
from goals import PointResult, geometric_mean, point_results, usable, verdicts
from results import Row

README = Path(__file__).resolve().parent.parent / "README.md"
BEGIN, END = "<!-- bench:begin (made by bench/report.py) -->", "<!-- bench:end -->"
DASH = "–"


def table(head: list[str], lines: list[list[str]]) -> str:
    align = ["---"] + ["---:"] * (len(head) - 1)
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, align, *lines])


def number(value: float | None, digits: int = 3) -> str:
    """Three significant digits, without an exponent."""
    if value is None or math.isnan(value):
        return DASH
    places = max(0, digits - 1 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:.{min(places, 4)}f}"


def rows_of(rows: list[Row], case: Case) -> dict[str, Row]:
    return {r["impl"]: r for r in rows if (r["grid"], r["case"], r["dtype"]) == (case.grid, case.case, case.dtype)}


def family(impl: str) -> str:
    """The peer that a variant of a call belongs to, for tables that show each peer once."""
    return {"flashinfer-fa2-nosplit": "flashinfer-fa2", "flashinfer-fa2-single": "flashinfer-fa2", "flashinfer-fa3-single": "flashinfer-fa3"}.get(
        impl, "fmha_v2" if impl == "fmha_v2-packed" else impl
    )


def peer_columns(cases: list[Case]) -> list[str]:
    return [i for i in cases[0].implementations if i not in (OURS, YARDSTICK, FLOOR, *SHORT_PEERS)]


def best_of_family(by_impl: dict[str, Row], name: str) -> Row | None:
    return min((r for i, r in by_impl.items() if family(i) == name and usable(r)), key=lambda r: r["us"], default=None)


def headline_table(rows: list[Row], cases: list[Case]) -> str:
    """Microseconds, and microseconds above an empty kernel's."""
    peers = peer_columns(cases)
    lines = []
    for case in cases:
        by_impl = rows_of(rows, case)
        times = {name: best_of_family(by_impl, name) for name in (OURS, *peers)}
        floor = by_impl.get(FLOOR, {}).get("us")
        mine = times[OURS]["us"] if times[OURS] else None
        best = min((r["us"] for name, r in times.items() if r and name != OURS), default=None)
        net = mine - floor if mine and floor else None
        lines.append(
            [
                case.case.split()[0],
                number(mine),
                number(net),
                *(number(times[p]["us"] if times[p] else None) for p in peers),
                number(mine / best if mine and best else None),
            ]
        )
    return table(["prompts", "Hopfill", "less an empty kernel", *peers, "Hopfill / best"], lines)


def throughput_table(rows: list[Row], cases: list[Case]) -> str:
    """TFLOP/s."""
    peers, lines = peer_columns(cases), []
    for case in cases:
        by_impl = rows_of(rows, case)
        rates = {name: by_impl[name]["tflops"] if name in by_impl and usable(by_impl[name]) else None for name in (OURS, *peers, YARDSTICK)}
        best = max((v for name, v in rates.items() if v and name in peers), default=None)
        ratio = rates[OURS] / best if rates[OURS] and best else None
        lines.append([case.case, *(number(rates[n]) for n in (OURS, *peers, YARDSTICK)), number(ratio)])
    return table(["batch", "Hopfill", *peers, "GEMM", "Hopfill / best"], lines)


def host_table(rows: list[Row], cases: list[Case]) -> str:
    case = cases[0]
    by_impl = rows_of(rows, case)
    timed = sorted(((r["host_us"], i) for i, r in by_impl.items() if r["host_us"] and i not in (YARDSTICK, FLOOR)))
    return f"Host time of a call ({case.case}, from Python), µs: " + ", ".join(f"{'Hopfill' if i == OURS else i} {us:.1f}" for us, i in timed) + "."


def means_table(points: list[PointResult], rows: list[Row]) -> str:
    """Geometric mean of each implementation's speed over the fastest one's of each point, ours included."""
    shares: dict[str, list[float]] = {}
    for p in points:
        timed: dict[str, float] = {}
        for impl, r in rows_of(rows, p.case).items():
            if usable(r) and impl not in (YARDSTICK, FLOOR):
                timed[family(impl)] = min(r["us"], timed.get(family(impl), math.inf))
        for impl, us in timed.items():
            shares.setdefault(impl, []).append(min(timed.values()) / us)
    lines = [[("Hopfill" if i == OURS else i), f"{geometric_mean(v):.3f}", str(len(v))] for i, v in shares.items()]
    return table(["", "speed over the fastest of each point", "points"], sorted(lines, key=lambda line: line[1], reverse=True))


def goals_table(points: list[PointResult]) -> str:
    lines = []
    for v in verdicts(points):
        where = f" ({v.worst.case.case})" if v.worst and not v.goal.mean and v.points > 1 else ""
        misses = f" ({len(v.missed)} of {v.points} points)" if v.state == "missed" and v.points > 1 and not v.goal.mean else ""
        shown = number(v.goal.show(v.value)) if v.points else DASH
        lines.append([v.goal.name, f"{v.goal.sense} {number(v.goal.show(v.goal.least))}", shown + where, v.state + misses])
    return table(["goal", "target", "worst point, or mean", ""], lines)


def gpu_section(rows: list[Row], cases: list[Case], slug: str, plots: list[str]) -> str:
    bf16 = {grid: [c for c in cases if c.grid == grid and c.dtype == "bf16"] for grid in GRIDS}
    present = {r["grid"] for r in rows if r["us"] is not None}
    points = point_results(rows, cases)
    dates = sorted({r["date"][:10] for r in rows})
    unverified = sum(1 for r in rows if r["impl"] == OURS and usable(r) and not r["key"])
    versions = dict(sorted({family(r["impl"]): r["version"] for r in rows if r["version"] and r["impl"] not in (OURS, FLOOR, YARDSTICK)}.items()))
    parts = [f"#### {rows[0]['gpu']}, {dates[0] if dates[0] == dates[-1] else dates[0] + ' to ' + dates[-1]}"]
    if "headline" in present:
        parts += [
            "Llama-2-7B (32 heads, head dimension 128, causal, BF16), µs by graph replay:",
            headline_table(rows, bf16["headline"]),
            host_table(rows, bf16["headline"]),
        ]
    for grid, title in (("throughput", "BF16, TFLOP/s; 16k tokens in every split:"), ("ragged", "Ragged batches, BF16, TFLOP/s:")):
        if grid in present:
            parts += [title, throughput_table(rows, bf16[grid])]
    parts += ["All BF16 points:", means_table([p for p in points if p.ours or p.best], rows), "Goals:", goals_table(points)]
    parts += [f"![{p}](bench/results/{p})" for p in plots]
    parts.append("Versions: " + "; ".join(f"{k}: {v}" for k, v in versions.items()) + ".")
    if unverified:
        parts.append(f"{unverified} rows of ours were timed with a kernel whose machine code has no key in the catalogue.")
    return "\n\n".join(parts)


def plot(rows: list[Row], cases: list[Case], slug: str, folder: Path) -> list[str]:
    """One picture a grid: bars of time for the headline, of TFLOP/s for the others. [] where matplotlib is missing."""
    try:
        import matplotlib
    except ImportError:
        return []
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    made = []
    for grid in GRIDS:
        of_grid = [c for c in cases if c.grid == grid and c.dtype == "bf16" and any(usable(r) for r in rows_of(rows, c).values())]
        if not of_grid:
            continue
        shown = [OURS, *peer_columns(of_grid)]
        field, unit = ("us", "µs, graph replay") if grid == "headline" else ("tflops", "TFLOP/s")
        groups = sorted({c.case.split(" ", 1)[1] for c in of_grid}, key=[c.case.split(" ", 1)[1] for c in of_grid].index)
        columns = 1 if len(groups) == 1 else 2
        figure, axes = plt.subplots(-(-len(groups) // columns), columns, figsize=(7.5 * columns, 3.2 * -(-len(groups) // columns)), squeeze=False)
        for axis, group in zip(axes.flat, groups, strict=False):
            members = [c for c in of_grid if c.case.split(" ", 1)[1] == group]
            for i, impl in enumerate(shown):
                values = [best_of_family(rows_of(rows, c), impl) for c in members]
                at = [x + (i - len(shown) / 2) * 0.8 / len(shown) for x in range(len(members))]
                axis.bar(
                    at,
                    [v[field] if v else 0 for v in values],
                    0.8 / len(shown),
                    label="Hopfill" if impl == OURS else impl,
                    color=None if impl != OURS else "black",
                )
            axis.set_xticks(range(len(members)), [c.case.split()[0] for c in members])
            axis.set_title(group, fontsize=9)
            axis.set_ylabel(unit)
            if grid == "headline":
                axis.set_yscale("log")
        axes.flat[0].legend(fontsize=7, ncols=2)
        figure.suptitle(f"{rows[0]['gpu']}, BF16, {grid}", fontsize=10)
        figure.tight_layout()
        name = f"{slug}-{grid}.png"
        figure.savefig(folder / name, dpi=80)
        plt.close(figure)
        made.append(name)
    return made


def summarise(rows: list[Row]) -> None:
    points = [p for p in point_results(rows, load()) if p.ours or p.best]
    if any(p.speedup for p in points):
        print(goals_table(points))


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--merge", type=Path, nargs="+", default=[], metavar="FILE")
    parser.add_argument("--print", action="store_true", dest="only_print")
    parser.add_argument("--results", type=Path, default=results.RESULTS)
    options = parser.parse_args(argv)
    for file in options.merge:
        into = options.results / file.name
        results.write(into, results.replace(results.read(into), results.read(file)))
    cases, sections = load(), []
    for path in sorted(options.results.glob("*.jsonl")):
        rows = [r for r in results.read(path) if r["grid"] in GRIDS]
        if not any(r["us"] is not None for r in rows):
            continue
        plots = [] if options.only_print else plot(rows, cases, path.stem, options.results)
        sections.append(gpu_section(rows, cases, path.stem, plots))
    if not sections:
        print("report: no timed rows in", options.results, file=sys.stderr)
        return 1
    text = "\n\n".join(sections)
    if options.only_print:
        print(text)
        return 0
    readme = README.read_text()
    if BEGIN not in readme or END not in readme:
        print(f"report: README.md lacks the markers {BEGIN} and {END}", file=sys.stderr)
        return 2
    before, rest = readme.split(BEGIN, 1)
    README.write_text(before + BEGIN + "\n\n" + text + "\n\n" + END + rest.split(END, 1)[1])
    print(f"README.md rewritten from {len(sections)} GPU(s)")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
