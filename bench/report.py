#!/usr/bin/env python3
"""The tables and plots of bench/results: all in its README.md, the headline and a summary in the repository's.

report.py                 rewrites README.md between its bench markers, bench/results/README.md, and bench/results/<gpu>-<grid>.png
                          (FP8: <gpu>-fp8-<grid>.png)
report.py --merge FILES   first takes rows of runs made elsewhere (each replaces all rows of its grid and dtype)
report.py --later FILES   then takes peers of runs made later, with Hopfill's time there, by which they are compared
report.py --print         tables and goals to the terminal only
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import Counter
from pathlib import Path

import accuracy_report
import results
from cases import FLOOR, GRIDS, NOT_PEERS, OURS, OURS_BF16, OURS_VT, VARIANTS, YARDSTICK, Case, load
from goals import JUDGED, PointResult, geometric_mean, point_results, usable, verdicts
from results import Row

README = Path(__file__).resolve().parent.parent / "README.md"
BEGIN, END = "<!-- bench:begin (made by bench/report.py) -->", "<!-- bench:end -->"
FULL = """# Results

Every point of `bench/grids.json`, with the goals that it is held to, made by `bench/report.py` from the `.jsonl` files here: one line for each
(grid, case, implementation), with its time, spread, kernel and evidence key, or a note that says why there is none. Random inputs, graph replay,
all implementations in turn on one GPU (but for those that a section names), a matrix product of 8192^3 (GEMM) in every round. GPUs come by the date
of their run, the newest first; a row's key says which machine code it is of. An H100's last run, of the kernels of then:
[h100-2026-11-24.md](h100-2026-11-24.md)."""
MORE = "Every point in TFLOP/s, ragged batches, FP8 accuracy, host times, versions, other GPUs: [bench/results](bench/results/README.md)."
DASH = "–"
ACCURACY = "accuracy-"  # before the name of a GPU's file: accuracy.py's rows


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
    return VARIANTS.get(impl, impl)


NAMES = {OURS: "Hopfill", OURS_VT: "V transposed", OURS_BF16: "Hopfill, BF16"}
DTYPE_NAMES = {"bf16": "BF16", "e4m3": "FP8", "bf16xe4m3": "BF16 queries, FP8 keys and values"}


def peer_columns(cases: list[Case]) -> list[str]:
    return [i for i in cases[0].implementations if i not in (*NOT_PEERS, *VARIANTS)]


def our_columns(rows: list[Row], cases: list[Case]) -> list[str]:
    """Ours and its other forms, those that were timed."""
    timed = {r["impl"] for c in cases for r in rows_of(rows, c).values() if usable(r)}
    return [i for i in cases[0].implementations if i in NAMES and (i == OURS or i in timed)]


def best_of_family(by_impl: dict[str, Row], name: str) -> Row | None:
    return min((r for i, r in by_impl.items() if family(i) == name and usable(r)), key=lambda r: r["us"], default=None)


def headline_table(rows: list[Row], cases: list[Case]) -> str:
    """Microseconds, and microseconds above an empty kernel's."""
    peers, lines = peer_columns(cases), []
    _, *others = ours = our_columns(rows, cases)
    for case in cases:
        by_impl = rows_of(rows, case)
        found = {name: best_of_family(by_impl, name) for name in (*ours, *peers)}
        times = {name: row["us"] if row else None for name, row in found.items()}
        floor, mine = by_impl.get(FLOOR, {}).get("us"), times[OURS]
        best = min((us for name, us in times.items() if us and name in peers), default=None)
        net = mine - floor if mine and floor else None
        share = mine / best if mine and best else None
        lines.append([case.label, number(mine), number(net), *(number(times[n]) for n in (*others, *peers)), number(share)])
    return table(["prompts", "Hopfill", "less an empty kernel", *(NAMES[n] for n in others), *peers, "Hopfill / best"], lines)


def throughput_table(rows: list[Row], cases: list[Case]) -> str:
    """TFLOP/s, of a peer with variants the fastest."""
    ours, peers, lines = our_columns(rows, cases), peer_columns(cases), []
    for case in cases:
        shown, by_impl = (*ours, *peers, YARDSTICK), rows_of(rows, case)
        found = {name: best_of_family(by_impl, name) for name in shown}
        rates = {name: row["tflops"] if row else None for name, row in found.items()}
        if not any(rates.values()):
            continue
        best = max((v for name, v in rates.items() if v and name in peers), default=None)
        share = [number(rates[OURS] / best if rates[OURS] and best else None)] if peers else []
        lines.append([case.case, *(number(rates[n]) for n in shown), *share])
    return table(["batch", *(NAMES[n] for n in ours), *peers, "GEMM", *(["Hopfill / best"] if peers else [])], lines)


def host_table(rows: list[Row], cases: list[Case]) -> str:
    case = cases[0]
    by_impl = rows_of(rows, case)
    timed = sorted(((r["host_us"], i) for i, r in by_impl.items() if r["host_us"] and i not in NOT_PEERS[1:]))
    return f"Host time of a call ({case.case}, from Python), µs: " + ", ".join(f"{'Hopfill' if i == OURS else i} {us:.1f}" for us, i in timed) + "."


def summary_table(rows: list[Row], cases: list[Case]) -> str | None:
    """Our speed over the best peer's: a line for each kind of head and mask, a column for each split of the tokens; None without peers."""
    shares: dict[str, dict[str, str]] = {}
    for case in cases:
        by_impl = rows_of(rows, case)
        peers = [r["us"] for i, r in by_impl.items() if i not in NOT_PEERS and usable(r)]
        if OURS in by_impl and usable(by_impl[OURS]) and peers:
            shares.setdefault(case.kind, {})[case.label] = f"{min(peers) / by_impl[OURS]['us']:.2f}"
    splits = [s for s in dict.fromkeys(c.label for c in cases) if any(s in of for of in shares.values())]
    return table(["", *splits], [[kind, *(of.get(s, DASH) for s in splits)] for kind, of in shares.items()]) if shares else None


def means_table(points: list[PointResult], rows: list[Row]) -> str:
    """Geometric mean of each implementation's speed over the fastest one's of each point that goals judge, ours included."""
    shares: dict[str, list[float]] = {}
    for p in points:
        if p.case.grid not in JUDGED:
            continue
        timed: dict[str, float] = {}
        for impl, r in rows_of(rows, p.case).items():
            if usable(r) and impl not in NOT_PEERS[1:]:
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


def headline_parts(rows: list[Row], cases: list[Case], dtype: str) -> list[str]:
    return [f"Llama-2-7B (32 heads, head dimension 128, causal, {DTYPE_NAMES[dtype]}), µs by graph replay:", headline_table(rows, cases)]


def few_parts(rows: list[Row], cases: list[Case], dtype: str) -> list[str]:
    return [
        f"Few heads, as a GPU of a tensor-parallel group has them: one prompt, or a chunk of queries that ends a longer sequence"
        f" (causal; 512 of 8k: 512 queries, 8k keys), {DTYPE_NAMES[dtype]}, TFLOP/s{outputs_note(dtype)}; of peers that were timed with and"
        " without splitting the keys, the faster:",
        throughput_table(rows, cases),
    ]


def few_brief(points: list[PointResult], dtype: str) -> list[str]:
    """What README says of them, where they were timed beside a peer."""
    shares = [p.speedup for p in points if p.case.grid == "few" and p.speedup]
    if not shares:
        return []
    return [
        f"Few heads (8/1 and 4/1, as a GPU of a tensor-parallel group has them), {DTYPE_NAMES[dtype]}, speed over the best peer's:"
        f" {min(shares):.2f} to {max(shares):.2f}, geometric mean {geometric_mean(shares):.2f} of {len(shares)} points."
    ]


def outputs_note(dtype: str) -> str:
    """What has to be said wherever speeds of a dtype are compared."""
    return "; cuDNN writes E4M3, the others BF16" if dtype == "e4m3" else ""


def later_note(rows: list[Row], dtype: str) -> list[str]:
    """Of peers that were timed in a run after the others'."""
    of = [r for r in rows if r["dtype"] == dtype and r["impl"] not in NOT_PEERS]
    parts = []
    for impl in sorted({r["impl"] for r in of if r.get("ours_us")}):
        timed, every = sum(1 for r in of if r["impl"] == impl and usable(r)), sum(1 for r in of if r["impl"] == impl)
        parts.append(
            f"{impl} was timed later, at {timed} of {every} points, beside Hopfill and the GEMM only; it is shown as it compares with Hopfill there."
        )
    return parts


def other_runs_note(rows: list[Row], dtype: str) -> list[str]:
    """Of points that were timed in another run than most of their grid."""
    of = [r for r in rows if r["dtype"] == dtype and usable(r) and not r.get("ours_us")]
    parts = []
    for grid in dict.fromkeys(r["grid"] for r in of):
        runs = Counter({(r["run"], r["case"]): r["run"] for r in of if r["grid"] == grid}.values())
        apart = sum(runs.values()) - max(runs.values())
        if apart:
            parts.append(f"{apart} of {sum(runs.values())} points of the grid '{grid}' are of another run than the rest, with all peers in it, too.")
    return parts


def dtype_brief(rows: list[Row], cases: list[Case], dtype: str) -> list[str]:
    """What README shows of one dtype: the headline, the summary, the means; [] where nothing of it was timed beside a peer."""
    name = DTYPE_NAMES[dtype]
    headline, throughput = ([c for c in cases if c.grid == grid and c.dtype == dtype] for grid in ("headline", "throughput"))
    timed = {(r["grid"], r["case"]) for r in rows if r["dtype"] == dtype and usable(r)}
    points = [p for p in point_results(rows, cases, dtype) if p.rows]
    parts = []
    if any((c.grid, c.case) in timed for c in headline):
        parts += headline_parts(rows, headline, dtype)
    parts += few_brief(points, dtype)
    if summary := summary_table(rows, throughput):
        parts += [f"{name}, speed over the best peer's at each point, 16k tokens (and more) in every split{outputs_note(dtype)}:", summary]
        parts += [f"All {name} points:", means_table(points, rows), *later_note(rows, dtype), *other_runs_note(rows, dtype)]
    return parts


def title(rows: list[Row]) -> str:
    dates = sorted({r["date"][:10] for r in rows})
    return f"{rows[0]['gpu']}, {dates[0] if dates[0] == dates[-1] else dates[0] + ' to ' + dates[-1]}"


def gpu_brief(rows: list[Row], cases: list[Case], plots: dict[str, list[str]]) -> str:
    parts = [f"#### {title(rows)}"]
    for dtype in DTYPE_NAMES:
        parts += dtype_brief(rows, cases, dtype)
        parts += [f"![{p}](bench/results/{p})" for p in plots.get(dtype, []) if "throughput" in p]
    return "\n\n".join(parts)


def dtype_section(rows: list[Row], cases: list[Case], dtype: str, plots: list[str]) -> list[str]:
    """Tables, goals and plots of one dtype; [] where nothing of it was timed."""
    name = DTYPE_NAMES[dtype]
    of = {grid: [c for c in cases if c.grid == grid and c.dtype == dtype] for grid in GRIDS}
    present = {r["grid"] for r in rows if r["us"] is not None and r["dtype"] == dtype}
    points = [p for p in point_results(rows, cases, dtype) if p.rows]
    if not present:
        return []
    parts = []
    if "headline" in present:
        parts += [*headline_parts(rows, of["headline"], dtype), host_table(rows, of["headline"])]
    if "few" in present:
        parts += few_parts(rows, of["few"], dtype)
    unit = f"{name}, TFLOP/s{outputs_note(dtype)}"
    for grid, what in (("throughput", f"{unit}; 16k tokens in every split:"), ("ragged", f"Ragged batches, {unit}:")):
        if grid in present:
            parts += [what, throughput_table(rows, of[grid])]
    summary = summary_table(rows, of["throughput"])
    if summary:
        parts += [f"{name}, Hopfill's speed over the best peer's at each point, by batch x tokens:", summary]
    found = [(c, rows_of(rows, c).values()) for cases_of in of.values() for c in cases_of]
    missing = [c for c, of_case in found if of_case and not any(map(usable, of_case))]
    if missing:
        parts.append(f"{len(missing)} points of these grids were not run ({missing[0].case} to {missing[-1].case}): their rows say why.")
    if any(p.peers for p in points):
        parts += [f"All {name} points:", means_table(points, rows), *later_note(rows, dtype), *other_runs_note(rows, dtype)]
    none_of = " (few heads have none)" if "few" in present else ""
    return [*parts, f"Goals, {name}{none_of}:", goals_table(points), *(f"![{p}]({p})" for p in plots)]


def gpu_section(rows: list[Row], cases: list[Case], plots: dict[str, list[str]], accuracy: list[Row] = ()) -> str:
    unverified = sum(1 for r in rows if r["impl"] in NAMES and usable(r) and not r["key"])
    versions = dict(sorted({family(r["impl"]): r["version"] for r in rows if r["version"] and r["impl"] not in NOT_PEERS}.items()))
    parts = [f"## {title(rows)}"]
    for dtype in DTYPE_NAMES:
        parts += dtype_section(rows, cases, dtype, plots.get(dtype, []))
    if accuracy:
        parts += [accuracy_report.section(accuracy), *(f"![{p}]({p})" for p in plots.get("accuracy", []))]
    parts.append("Versions: " + "; ".join(f"{k}: {v}" for k, v in versions.items()) + ".")
    if unverified:
        parts.append(f"{unverified} rows of ours were timed with a kernel whose machine code has no key in the catalogue.")
    return "\n\n".join(parts)


def plot(rows: list[Row], cases: list[Case], dtype: str, slug: str, folder: Path) -> list[str]:
    """One picture a grid of the dtype: bars of time for the headline, of TFLOP/s for the others. [] where matplotlib is missing."""
    try:
        import matplotlib
    except ImportError:
        return []
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    made = []
    for grid in GRIDS:
        of_grid = [c for c in cases if c.grid == grid and c.dtype == dtype and any(usable(r) for r in rows_of(rows, c).values())]
        if not of_grid:
            continue
        shown = [*our_columns(rows, of_grid), *peer_columns(of_grid)]
        field, unit = ("us", "µs, graph replay") if grid == "headline" else ("tflops", "TFLOP/s")
        groups = list(dict.fromkeys(c.kind for c in of_grid))
        columns = 1 if len(groups) == 1 else 2
        figure, axes = plt.subplots(-(-len(groups) // columns), columns, figsize=(7.5 * columns, 3.2 * -(-len(groups) // columns)), squeeze=False)
        for axis, group in zip(axes.flat, groups, strict=False):
            members = [c for c in of_grid if c.kind == group]
            for i, impl in enumerate(shown):
                values = [best_of_family(rows_of(rows, c), impl) for c in members]
                at = [x + (i - len(shown) / 2) * 0.8 / len(shown) for x in range(len(members))]
                axis.bar(
                    at,
                    [v[field] if v else 0 for v in values],
                    0.8 / len(shown),
                    label=NAMES.get(impl, impl),
                    color={OURS: "black", OURS_VT: "dimgrey", OURS_BF16: "lightgrey"}.get(impl),
                )
            axis.set_xticks(range(len(members)), [c.label for c in members])
            axis.set_title(group, fontsize=9)
            axis.set_ylabel(unit)
            if grid == "headline":
                axis.set_yscale("log")
        # Title and legend above all panels, at the same distance in inches whatever the height.
        inch = 1 / figure.get_figheight()
        handles, labels = axes.flat[0].get_legend_handles_labels()
        figure.suptitle(f"{rows[0]['gpu']}, {DTYPE_NAMES[dtype]}, {grid}", fontsize=10, y=1 - 0.05 * inch, va="top")
        figure.legend(handles, labels, fontsize=7, ncols=5 * columns, loc="upper center", bbox_to_anchor=(0.5, 1 - 0.25 * inch))
        figure.tight_layout(rect=(0, 0, 1, 1 - (0.35 if columns == 2 else 0.5) * inch))
        name = f"{slug}{'-fp8' if dtype == 'e4m3' else ''}-{grid}.png"
        figure.savefig(folder / name, dpi=80)
        plt.close(figure)
        made.append(name)
    return made


def summarise(rows: list[Row]) -> None:
    for dtype in DTYPE_NAMES:
        points = [p for p in point_results(rows, load(), dtype) if p.rows]
        if any(v.points for v in verdicts(points)):
            print(f"{DTYPE_NAMES[dtype]}:\n{goals_table(points)}")


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--merge", type=Path, nargs="+", default=[], metavar="FILE")
    parser.add_argument("--later", type=Path, nargs="+", default=[], metavar="FILE")
    parser.add_argument("--print", action="store_true", dest="only_print")
    parser.add_argument("--results", type=Path, default=results.RESULTS)
    options = parser.parse_args(argv)
    for file in options.merge:
        into = options.results / file.name
        if file.name.startswith(ACCURACY):
            results.write(into, results.read(file))
            continue
        results.write(into, results.replace(results.read(into), results.read(file)))
    for file in options.later:
        into = options.results / file.name
        results.write(into, results.add_later(results.read(into), results.read(file)))
    cases, newest_first = load(), []
    for path in sorted(options.results.glob("*.jsonl")):
        if path.name.startswith(ACCURACY):
            continue
        rows = results.comparable([r for r in results.read(path) if r["grid"] in GRIDS])
        if not any(r["us"] is not None for r in rows):
            continue
        accuracy, plots = results.read(path.with_name(ACCURACY + path.name)), {}
        if not options.only_print:
            plots = {d: plot(rows, cases, d, path.stem, options.results) for d in ("bf16", "e4m3")}
            drawn = accuracy_report.plot(accuracy, path.stem, options.results) if accuracy else None
            plots["accuracy"] = [drawn] if drawn else []
        newest_first.append((max(r["date"] for r in rows), gpu_section(rows, cases, plots, accuracy), gpu_brief(rows, cases, plots)))
    newest_first.sort(reverse=True)
    sections = [section for _, section, _ in newest_first]
    if not sections:
        print("report: no timed rows in", options.results, file=sys.stderr)
        return 1
    text = "\n\n".join([FULL, *sections]) + "\n"
    if options.only_print:
        print(text)
        return 0
    readme = README.read_text()
    if BEGIN not in readme or END not in readme:
        print(f"report: README.md lacks the markers {BEGIN} and {END}", file=sys.stderr)
        return 2
    before, rest = readme.split(BEGIN, 1)
    README.write_text(before + BEGIN + "\n\n" + newest_first[0][2] + "\n\n" + MORE + "\n\n" + END + rest.split(END, 1)[1])
    (options.results / "README.md").write_text(text)
    print(f"README.md and {options.results.name}/README.md rewritten from {len(sections)} GPU(s)")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
