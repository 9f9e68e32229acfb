"""Draws `hopfill demo --json`: a progress bar while it works, then a table, and a picture of the times in out/demo.png."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "out" / "demo.png"


def collect(console: Console, binary: Path) -> tuple[list[dict], int]:
    """The rows that the command prints, and its exit status."""
    rows: list[dict] = []
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    command = [binary, "demo", "--json"]
    with Progress(*columns, console=console) as progress, subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        task = progress.add_task("starting", total=None)
        for line in process.stdout:
            event = json.loads(line)
            if event["event"] == "step":
                progress.update(task, description=f"{event['text']:<24}", completed=event["done"], total=event["total"])
            else:
                rows.append(event)
                progress.advance(task)
    return rows, process.returncode


def time_text(us: float) -> str:
    return f"{us:.1f} us" if us < 1e3 else f"{us / 1e3:.1f} ms" if us < 1e6 else f"{us / 1e6:.2f} s"


def table_of(rows: list[dict]) -> Table:
    table = Table(title="Llama-2-7B attention: head dimension 128, causal, BF16", caption="bound: the share of the allowed error that is used")
    for name in ("backend", "case"):
        table.add_column(name, no_wrap=True)
    for name in ("latency", "TFLOP/s", "max err", "RMS err", "bound"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        verdict = f"[green]{row['bound_used']:.0%}[/]" if row["passed"] else "[red]WRONG[/]"
        times = (time_text(row["us"]), f"{row['tflops']:.3g}")
        table.add_row(row["backend"], row["case"], *times, f"{row['max_err']:.2e}", f"{row['rms_err']:.2e}", verdict)
    return table


def draw(rows: list[dict]) -> None:
    figure, axes = plt.subplots(figsize=(8, 0.45 * len(rows) + 1.6), layout="constrained")
    colours = {backend: f"C{i}" for i, backend in enumerate(dict.fromkeys(row["backend"] for row in rows))}
    labels = [f"{row['backend']}  {row['case']}" for row in rows]
    bars = axes.barh(labels, [row["us"] / 1e3 for row in rows], color=[colours[row["backend"]] for row in rows])
    axes.bar_label(bars, [time_text(row["us"]) for row in rows], padding=4)
    axes.set_xscale("log")
    axes.margins(x=0.15)
    axes.invert_yaxis()
    axes.set_xlabel("milliseconds (log scale)")
    axes.set_title("Hopfill: Llama-2-7B attention, causal, BF16")
    machines = dict.fromkeys(row["machine"] for row in rows)
    figure.supxlabel(", ".join(machines), fontsize="small", color="grey")
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, dpi=150)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary", type=Path, default=ROOT / "build" / "hopfill", help="the command to run")
    console = Console()
    rows, status = collect(console, parser.parse_args().binary)
    if rows:
        console.print(table_of(rows))
        for row in rows:
            if not row["passed"]:
                console.print(f"[red]{row['backend']} {row['case']}[/]: {row['text']}")
        draw(rows)
        console.print(f"picture: {PICTURE.relative_to(ROOT)}")
    return status


if __name__ == "__main__":
    sys.exit(main())
