"""What the rows must show (the goals of the BF16 and FP16 work), and whether they do. A speedup is the best peer's time over ours."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from cases import FLOOR, OURS, YARDSTICK, Case
from results import Row


@dataclass(frozen=True)
class PointResult:
    """One (grid, case) on one GPU, BF16 unless said otherwise."""

    case: Case
    ours: Row | None
    ours_f16: Row | None
    best: Row | None  # the fastest peer whose result is right
    gemm: Row | None
    floor: Row | None

    @property
    def speedup(self) -> float | None:
        return self.best["us"] / self.ours["us"] if self.ours and self.best else None

    @property
    def noise(self) -> float:
        """Relative spread of the speedup: both spreads together."""
        return sum((r["us_spread"] or 0) / r["us"] for r in (self.ours, self.best) if r)

    @property
    def f16_ratio(self) -> float | None:
        return self.ours["us"] / self.ours_f16["us"] if self.ours and self.ours_f16 else None


def usable(row: Row) -> bool:
    return row["us"] is not None and not (row["note"] or "").startswith("wrong")


def point_results(rows: list[Row], cases: list[Case]) -> list[PointResult]:
    by_point: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if usable(row):
            by_point.setdefault((row["grid"], row["case"]), []).append(row)

    def only(rows: list[Row], impl: str, dtype: str = "bf16") -> Row | None:
        return next((r for r in rows if r["impl"] == impl and r["dtype"] == dtype), None)

    points = []
    for case in cases:
        if case.dtype != "bf16":
            continue
        mine = by_point.get((case.grid, case.case), [])
        peers = [r for r in mine if r["dtype"] == "bf16" and r["impl"] not in (OURS, YARDSTICK, FLOOR)]
        best = min(peers, key=lambda r: r["us"], default=None)
        points.append(PointResult(case, only(mine, OURS), only(mine, OURS, "f16"), best, only(mine, YARDSTICK), only(mine, FLOOR)))
    return points


def geometric_mean(values: list[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values)) if values else math.nan


@dataclass(frozen=True)
class Goal:
    name: str
    least: float
    applies: Callable[[PointResult], bool]
    value: Callable[[PointResult], float | None] = lambda p: p.speedup
    noise: Callable[[PointResult], float] = lambda p: 0.0  # how far below `least` is still met
    mean: bool = False  # judged by the geometric mean, not by the worst point
    show: Callable[[float], float] = lambda v: v  # how value and target are written
    sense: str = "at least"


def _headline(label: str) -> Callable[[PointResult], bool]:
    return lambda p: p.case.grid == "headline" and p.case.case.split()[0] == label


def _throughput(low: int, high: int, causal: bool | None = None, head_dim: int | None = None) -> Callable[[PointResult], bool]:
    def applies(p: PointResult) -> bool:
        c = p.case
        return c.grid == "throughput" and low <= c.seq <= high and causal in (None, c.causal) and head_dim in (None, c.head_dim_qk)

    return applies


def _at_most(name: str, share: float, label: str) -> Goal:
    return Goal(name, 1 / share, _headline(label), show=lambda v: 1 / v, sense="at most")


def _host(limit_us: float) -> Goal:
    def value(p: PointResult) -> float | None:
        return 1 / p.ours["host_us"] if p.ours and p.ours["host_us"] else None

    return Goal("host time of a call from Python, us", 1 / limit_us, _headline("1x128"), value, show=lambda v: 1 / v, sense="at most")


GOALS = (
    _at_most("1x512: time over the best peer's", 0.65, "1x512"),
    _at_most("2x512: time over the best peer's", 0.60, "2x512"),
    _at_most("4x512: time over the best peer's", 0.52, "4x512"),
    _at_most("1x128: time over the best peer's", 1.00, "1x128"),
    _at_most("1x256: time over the best peer's", 1.00, "1x256"),
    _at_most("1x1024: time over the best peer's", 0.85, "1x1024"),
    _at_most("1x2048: time over the best peer's", 0.85, "1x2048"),
    Goal("causal, 512 tokens: speedup", 1.25, _throughput(512, 512, True)),
    Goal("causal, 1k tokens: speedup", 1.15, _throughput(1024, 1024, True)),
    Goal("causal, 2k tokens: speedup", 1.10, _throughput(2048, 2048, True)),
    Goal("full, 512 to 2k tokens: speedup", 1.08, _throughput(512, 2048, False)),
    Goal("4k tokens and longer, hd128: speedup", 1.04, _throughput(4096, 1 << 30, head_dim=128)),
    Goal("4k tokens and longer, hd64: speedup", 1.12, _throughput(4096, 1 << 30, head_dim=64)),
    Goal("4k tokens and longer, hd256: speedup", 1.00, _throughput(4096, 1 << 30, head_dim=256)),
    Goal("ragged batches: speedup", 1.10, lambda p: p.case.grid == "ragged"),
    Goal("every point: speedup, beyond the spread", 0.98, lambda p: True, noise=lambda p: p.noise),
    Goal("FP16, every point: our BF16 time over our FP16 time", 0.97, lambda p: True, lambda p: p.f16_ratio),
    Goal("geometric mean over all points: speedup", 1.10, lambda p: True, mean=True),
    _host(12.0),
)


@dataclass(frozen=True)
class Verdict:
    goal: Goal
    points: int  # with a value
    missing: int  # without
    missed: list[PointResult]
    worst: PointResult | None
    value: float  # of the worst point, or the mean

    @property
    def state(self) -> str:
        if not self.points:
            return "no data"
        met = self.value >= self.goal.least if self.goal.mean else not self.missed
        return "missed" if not met else "met" if not self.missing else f"met, {self.missing} points without data"


def judge(goal: Goal, points: list[PointResult]) -> Verdict:
    concerned = [p for p in points if goal.applies(p)]
    valued = [(goal.value(p), p) for p in concerned if goal.value(p) is not None]
    missed = [] if goal.mean else [p for v, p in valued if v * (1 + goal.noise(p)) < goal.least]
    worst = min(valued, key=lambda vp: vp[0])[1] if valued else None
    value = geometric_mean([v for v, _ in valued]) if goal.mean else (goal.value(worst) if worst else math.nan)
    return Verdict(goal, len(valued), len(concerned) - len(valued), missed, worst, value)


def verdicts(points: list[PointResult]) -> list[Verdict]:
    return [judge(goal, points) for goal in GOALS]
