"""Table, goals and plot of accuracy.py's rows."""

from __future__ import annotations

from pathlib import Path

from cases import NOT_PEERS, OURS, OURS_VT

Row = dict
GROWTH = 1.1  # from 4k to 64k keys, at most
NOTHING = 1e-5  # added to both errors that are compared: where one key takes all, an output may be exact by luck


def errors(rows: list[Row], head_dim: int, kind: str) -> dict[str, dict[int, float]]:
    """RMS error over the output's RMS, by implementation and number of keys."""
    found: dict[str, dict[int, float]] = {}
    for r in rows:
        if r["test"] == "error" and r["relative"] is not None and (r["head_dim"], r["input"]) == (head_dim, kind):
            found.setdefault(r["impl"], {})[r["keys"]] = r["relative"]
    return found


def problems(rows: list[Row]) -> list[tuple[int, str]]:
    return list(dict.fromkeys((r["head_dim"], r["input"]) for r in rows if r["test"] == "error" and r["input"]))


def goals(rows: list[Row]) -> list[list[str]]:
    """[goal, target, found, state] of each: by kind of input, at the worst length and head dimension."""
    lines, grown = [], []
    for kind in dict.fromkeys(kind for _, kind in problems(rows)):
        worst, growth = (0.0, ""), (0.0, "")
        for head_dim in (d for d, k in problems(rows) if k == kind):
            of = errors(rows, head_dim, kind)
            ours, peers = of.get(OURS, {}), [e for impl, e in of.items() if impl not in NOT_PEERS]
            for keys, mine in ours.items():
                best = min((e[keys] for e in peers if keys in e), default=None)
                if best is not None:
                    worst = max(worst, ((mine + NOTHING) / (best + NOTHING), f"{keys} keys, hd{head_dim}"))
            if 4096 in ours and 65536 in ours:
                of_peers = min((e[65536] / e[4096] for e in peers if 4096 in e and 65536 in e), default=None)
                growth = max(growth, (ours[65536] / ours[4096], f"hd{head_dim}" + (f"; best peer {of_peers:.3g}" if of_peers else "")))
        if worst[0]:
            state = "met" if worst[0] < 1.0005 else "missed"
            lines.append([f"{kind}: RMS error over the best peer's", "at most 1.00", f"{worst[0]:.3f} ({worst[1]})", state])
        if growth[0]:
            state = "met" if growth[0] < GROWTH else "missed"
            grown.append([f"{kind}: growth of the error from 4k to 64k keys", f"under {GROWTH:.2f}", f"{growth[0]:.3g} ({growth[1]})", state])
    lines += grown
    for r in rows:
        if r["test"] == "needle" and r["impl"] == OURS and r["right"] is not None:
            name = f"needles found among {r['keys']} keys"
            lines.append([name, f"{r['of']} of {r['of']}", f"{r['right']} of {r['of']}", "met" if r["right"] == r["of"] else "missed"])
    return lines


def section(rows: list[Row]) -> str:
    """Markdown: errors at the first head dimension, needles, goals."""
    head_dim = next(r["head_dim"] for r in rows if r["head_dim"])
    implementations = list(dict.fromkeys(r["impl"] for r in rows if r["relative"] is not None))
    lengths = sorted({r["keys"] for r in rows if r["test"] == "error" and r["keys"]})
    lines = ["| input, keys | " + " | ".join("Hopfill" if i == OURS else "V transposed" if i == OURS_VT else i for i in implementations) + " |"]
    lines.append("| --- |" + " ---: |" * len(implementations))
    for kind in dict.fromkeys(kind for _, kind in problems(rows)):
        of = errors(rows, head_dim, kind)
        for keys in lengths:
            found = [of.get(i, {}).get(keys) for i in implementations]
            lines.append(f"| {kind}, {keys} | " + " | ".join("–" if e is None else f"{e:.2e}" for e in found) + " |")
    needles = [f"{r['impl']} {r['right']} of {r['of']}" for r in rows if r["test"] == "needle" and r["right"] is not None]
    title = f"FP8, RMS error over the output's RMS against float64 on the same E4M3 numbers (head dimension {head_dim}; cuDNN writes E4M3):"
    chance = "Where one key takes all (peaky, large), the error is that of the few rows in which two come close, and chance decides which."
    judged = "\n".join(["| goal | target | worst | |", "| --- | ---: | ---: | ---: |", *("| " + " | ".join(g) + " |" for g in goals(rows))])
    parts = [title, "\n".join(lines)]
    if needles:
        parts.append(f"Needles found: {', '.join(needles)}.")
    return "\n\n".join(parts + ([judged, chance] if goals(rows) else []))


def plot(rows: list[Row], slug: str, folder: Path) -> str | None:
    """Error against length, a panel for each kind of input; None where matplotlib is missing."""
    try:
        import matplotlib
    except ImportError:
        return None
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    head_dim, kinds = problems(rows)[0][0], list(dict.fromkeys(kind for _, kind in problems(rows)))
    figure, axes = plt.subplots(1, len(kinds), figsize=(4 * len(kinds), 3.4), squeeze=False)
    for axis, kind in zip(axes.flat, kinds, strict=True):
        for impl, of in errors(rows, head_dim, kind).items():
            ours = impl in (OURS, OURS_VT)
            label = {OURS: "Hopfill", OURS_VT: "V transposed"}.get(impl, impl)
            style = {"color": "black" if ours else None, "linestyle": ":" if impl == OURS_VT else "-"}
            axis.plot(list(of), list(of.values()), marker="o", markersize=3, label=label, **style)
        axis.set(title=kind, xscale="log", yscale="log", xlabel="keys")
    axes.flat[0].set_ylabel("RMS error / RMS of the output")
    axes.flat[0].legend(fontsize=7)
    figure.suptitle(f"{rows[0]['gpu']}, FP8, head dimension {head_dim}", fontsize=10)
    figure.tight_layout()
    name = f"{slug}-fp8-accuracy.png"
    figure.savefig(folder / name, dpi=80)
    plt.close(figure)
    return name
