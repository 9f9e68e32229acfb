"""What the rows must show, and whether they do: goals of the 16-bit and of the FP8 kernels. A speedup is the best peer's time over ours."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from cases import NOT_PEERS, OURS, OURS_BF16, OURS_VT, Case
from results import Row, comparable, point_of


@dataclass(frozen=True)
class PointResult:
    """One (grid, case) of one dtype on one GPU."""

    case: Case
    rows: dict[str, Row]  # usable ones, by implementation
    ours_f16: Row | None = None  # of the same point, where this one is BF16

    @property
    def ours(self) -> Row | None:
        return self.rows.get(OURS)

    @property
    def peers(self) -> list[Row]:
        return [r for i, r in self.rows.items() if i not in NOT_PEERS]

    @property
    def best(self) -> Row | None:
        """The fastest peer whose result is right."""
        return min(self.peers, key=lambda r: r["us"], default=None)

    @property
    def best_16bit(self) -> Row | None:
        """The fastest of the peers whose output has our type: not e4m3."""
        return min((r for r in self.peers if r["out_dtype"] == self.case.out_dtype), key=lambda r: r["us"], default=None)

    @property
    def speedup(self) -> float | None:
        return ratio(self.best, self.ours)

    @property
    def noise(self) -> float:
        """Relative spread of the speedup: both spreads together."""
        return sum((r["us_spread"] or 0) / r["us"] for r in (self.ours, self.best) if r)


def ratio(slow: Row | None, fast: Row | None) -> float | None:
    return slow["us"] / fast["us"] if slow and fast else None


def usable(row: Row) -> bool:
    return row["us"] is not None and not (row["note"] or "").startswith("wrong")


def point_results(rows: list[Row], cases: list[Case], dtype: str = "bf16") -> list[PointResult]:
    by_point: dict[tuple[str, str, str], dict[str, Row]] = {}
    for row in comparable(rows):
        if usable(row):
            by_point.setdefault(point_of(row), {})[row["impl"]] = row

    def of(case: Case, wanted: str) -> dict[str, Row]:
        return by_point.get((case.grid, case.case, wanted), {})

    return [PointResult(c, of(c, dtype), of(c, "f16").get(OURS) if dtype == "bf16" else None) for c in cases if c.dtype == dtype]


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


JUDGED = ("headline", "throughput", "ragged")  # grids of the goals that go over all points: "few" has none


def _every(p: PointResult) -> bool:
    return p.case.grid in JUDGED


def _headline(label: str) -> Callable[[PointResult], bool]:
    return lambda p: p.case.grid == "headline" and p.case.case.split()[0] == label


def _throughput(low: int, high: int, causal: bool | None = None, head_dim: int | None = None) -> Callable[[PointResult], bool]:
    def applies(p: PointResult) -> bool:
        c = p.case
        return c.grid == "throughput" and low <= c.seq <= high and causal in (None, c.causal) and head_dim in (None, c.head_dim_qk)

    return applies


def _at_most(name: str, share: float, label: str, value: Callable[[PointResult], float | None] = lambda p: p.speedup) -> Goal:
    return Goal(name, 1 / share, _headline(label), value, show=lambda v: 1 / v, sense="at most")


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
    Goal("every point: speedup, beyond the spread", 0.98, _every, noise=lambda p: p.noise),
    Goal("FP16, every point: our BF16 time over our FP16 time", 0.97, _every, lambda p: ratio(p.ours, p.ours_f16)),
    Goal("geometric mean over all points: speedup", 1.10, _every, mean=True),
    _host(12.0),
)

_LONG = 4096, 1 << 30
FP8_GOALS = (
    *(_at_most(f"{n}: time over the best FP8 peer's", 0.60, n) for n in ("1x512", "2x512", "4x512")),
    *(_at_most(f"{n}: time over our BF16 kernel's", 0.90, n, lambda p: ratio(p.rows.get(OURS_BF16), p.ours)) for n in ("1x512", "2x512", "4x512")),
    Goal("causal, 512 to 2k tokens: speedup", 1.25, _throughput(512, 2048, True)),
    Goal("4k tokens and longer, hd128: speedup over 16-bit output", 1.15, _throughput(*_LONG, head_dim=128), lambda p: ratio(p.best_16bit, p.ours)),
    Goal(
        "4k tokens and longer, hd128, V given transposed: speedup over 16-bit output",
        1.25,
        _throughput(*_LONG, head_dim=128),
        lambda p: ratio(p.best_16bit, p.rows.get(OURS_VT)),
    ),
    Goal(
        "4k tokens and longer, hd128: speedup over cuDNN, which writes e4m3",
        1.05,
        _throughput(*_LONG, head_dim=128),
        lambda p: ratio(p.rows.get("cudnn-fe"), p.ours),
    ),
    Goal("4k tokens and longer, hd64: speedup", 1.35, _throughput(*_LONG, head_dim=64)),
    Goal("4k tokens and longer, hd256: speedup", 1.08, _throughput(*_LONG, head_dim=256)),
    _host(12.0),
)
MIXED_GOALS = (Goal("16k tokens: our BF16 kernel's time over ours", 0.95, _throughput(16384, 16384), lambda p: ratio(p.rows.get(OURS_BF16), p.ours)),)
GOALS_OF = {"bf16": GOALS, "e4m3": FP8_GOALS, "bf16xe4m3": MIXED_GOALS}


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
    return [judge(goal, points) for goal in GOALS_OF[points[0].case.dtype]] if points else []
