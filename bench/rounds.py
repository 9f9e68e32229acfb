"""A run: points in order, each prepared by all processes at once, then timed in rounds, implementations in turn, within a time budget."""

from __future__ import annotations

import datetime
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import results
from cases import FLOOR, NOT_PEERS, OURS, YARDSTICK, Case
from processes import PROCESS_OF, WorkerDied

SETUP_S, PREPARE_S, TIMING_S = 240, 90, 30  # how long a worker may take to answer
RESTARTS = 2  # of one process in a run
NOISY = 0.015  # spread over median above which more rounds are taken, if time allows


@dataclass
class Point:
    """One case in every dtype that is asked for. The first dtype's peers and yardstick are timed beside ours in the other ones."""

    cases: list[Case]

    @property
    def name(self) -> str:
        return f"{self.cases[0].grid} {self.cases[0].case}"

    def entries(self) -> list[tuple[str, Case, str]]:
        """(name for the worker, case, implementation)."""
        first, *others = self.cases
        entries = [(impl, first, impl) for impl in first.implementations]
        return entries + [(f"{impl}@{c.dtype}", c, impl) for c in others for impl in c.implementations]


def points_of(cases: list[Case]) -> list[Point]:
    """Points in the order of the cases, GQA after the rest: if the budget ends, it ends in the points that repeat others most."""
    grouped: dict[tuple[str, str], list[Case]] = {}
    for case in cases:
        grouped.setdefault((case.grid, case.case), []).append(case)
    return sorted((Point(c) for c in grouped.values()), key=lambda p: p.cases[0].grid == "throughput" and p.cases[0].heads != p.cases[0].kv_heads)


@dataclass
class Settings:
    run: str
    budget_s: float = 3600.0
    rounds: int = 5
    max_rounds: int = 9
    seed: int = 1
    spawn: Callable[[str], object] = None
    clock: Callable[[], float] = time.monotonic
    say: Callable[[str], None] = print


@dataclass
class Seen:
    """What is known of one entry of a point."""

    known: dict = field(default_factory=dict)  # fields of the row
    samples: list[float] = field(default_factory=list)


class Bench:
    def __init__(self, points: list[Point], settings: Settings):
        self.points, self.settings = points, settings
        self.started = settings.clock()
        self.workers: dict[str, object] = {}
        self.restarts: dict[str, int] = {}
        self.versions: dict[str, str] = {}
        self.failed: dict[str, str] = {}  # implementation -> why it is not available
        self.keys: dict[str, str] = {}
        self.gpu = ""
        self.rows: list[results.Row] = []
        self.durations: list[float] = []
        self.random = random.Random(settings.seed)
        self.names = {impl for p in points for _, _, impl in p.entries()}

    def elapsed(self) -> float:
        return self.settings.clock() - self.started

    # ---- processes

    def start(self) -> None:
        """All processes at once: most of it is imports."""
        wanted = sorted({PROCESS_OF[name] for name in self.names})
        for process in wanted:
            self._spawn(process)
        for process in wanted:
            self._finish_setup(process)

    def _spawn(self, process: str) -> None:
        worker = self.settings.spawn(process)
        self.workers[process] = worker
        try:
            worker.send("setup", names=[n for n in self.names if PROCESS_OF[n] == process])
        except WorkerDied as death:
            self._bury(process, str(death))

    def _finish_setup(self, process: str) -> None:
        try:
            reply = self.workers[process].receive(SETUP_S) if process in self.workers else {"error": "could not be started"}
        except WorkerDied as death:
            reply = {"error": str(death)}
            self.workers.pop(process, None)
        if "error" in reply:
            self.failed |= {n: f"not available: {reply['error']}" for n in self.names if PROCESS_OF[n] == process}
            return
        self.versions |= reply["versions"]
        self.failed |= reply["failed"]
        self.keys |= reply["keys"]
        self.gpu = reply["gpu"]

    def _bury(self, process: str, why: str) -> None:
        self.workers.pop(process, None)
        self.restarts[process] = self.restarts.get(process, 0) + 1
        self.settings.say(f"{process}: {why}")

    def _revive(self, process: str) -> str | None:
        """Starts a process that died before; why not, if it will not be."""
        if process in self.workers:
            return None
        if self.restarts.get(process, 0) > RESTARTS:
            return f"its process died {self.restarts[process]} times"
        self._spawn(process)
        self._finish_setup(process)
        return None if process in self.workers else "its process could not be restarted"

    # ---- one point

    def run_point(self, point: Point, seconds: float) -> list[results.Row]:
        """Rows of a point. More rounds than the least are taken only within `seconds`."""
        began = self.settings.clock()
        seen = {name: Seen() for name, _, _ in point.entries()}
        ready = self._prepare(point, seen)
        ready = [name for name in ready if self._timed(name, seen, "warm")]
        least, done = self.settings.rounds, 0
        while ready and done < self.settings.max_rounds:
            if done >= least:
                per_round = (self.settings.clock() - began) / done
                if self.settings.clock() - began + per_round > seconds or not self._noisy(seen):
                    break
            self.random.shuffle(ready)
            ready = [name for name in ready if self._timed(name, seen, "measure")]
            done += 1
        return [self._row(case, impl, seen[name]) for name, case, impl in point.entries()]

    def _prepare(self, point: Point, seen: dict[str, Seen]) -> list[str]:
        by_process: dict[str, list[str]] = {}
        for name, _, impl in point.entries():
            process = PROCESS_OF[impl]
            reason = self.failed.get(impl) or self._revive(process)
            if reason:
                seen[name].known["note"] = reason
            else:
                by_process.setdefault(process, []).append(name)
        first = point.cases[0]
        case = {k: getattr(first, k) for k in first.__dataclass_fields__ if k != "implementations"}
        for process, names in list(by_process.items()):
            try:
                self.workers[process].send("prepare", case=case, names=names)
            except WorkerDied as death:
                self._died(process, names, seen, str(death))
                del by_process[process]
        ready = []
        for process, names in by_process.items():
            try:
                reply = self.workers[process].receive(PREPARE_S)
            except WorkerDied as death:
                self._died(process, names, seen, str(death))
                continue
            if "error" in reply:
                for name in names:
                    seen[name].known["note"] = reply["error"]
                continue
            ready += self._take_prepared(process, names, seen, reply["results"])
        return ready

    def _take_prepared(self, process: str, names: list[str], seen: dict[str, Seen], prepared: dict[str, dict]) -> list[str]:
        if any(result.pop("fatal", False) for result in prepared.values()):
            for name in names:
                seen[name].known["note"] = prepared.get(name, {}).get("note") or "another implementation broke the process"
            self.workers[process].kill()
            self._bury(process, "a CUDA error ended its context")
            return []
        ready = []
        for name in names:
            result = prepared[name]
            if "note" in result:
                seen[name].known["note"] = result["note"]
                continue
            if "wrong" in result:
                result["note"] = result.pop("wrong")
            if result.get("kernel"):
                result["key"] = self.keys.get(result["kernel"])
            seen[name].known |= result
            ready.append(name)
        return ready

    def _died(self, process: str, names, seen: dict[str, Seen], why: str) -> None:
        for name in names:
            seen[name].known["note"] = why
            seen[name].samples.clear()
        self._bury(process, why)

    def _timed(self, name: str, seen: dict[str, Seen], do: str) -> bool:
        """Warms or measures one implementation; False when it is out of this point."""
        process = PROCESS_OF[name.partition("@")[0]]
        if process not in self.workers:
            return False
        try:
            reply = self.workers[process].request(do, TIMING_S, name=name)
        except WorkerDied as death:
            self._died(process, [n for n in seen if PROCESS_OF[n.partition("@")[0]] == process], seen, str(death))
            return False
        if "error" in reply:
            seen[name].known["note"] = reply["error"]
            seen[name].samples.clear()
            return False
        if do == "warm":
            seen[name].known["host_us"] = reply["host_us"]
        else:
            seen[name].samples.append(reply["us"])
        return True

    def _noisy(self, seen: dict[str, Seen]) -> bool:
        for s in seen.values():
            if s.samples:
                median, spread = results.summary(s.samples)
                if spread > NOISY * median:
                    return True
        return False

    def _row(self, case: Case, impl: str, seen: Seen) -> results.Row:
        known = dict(seen.known)
        if seen.samples:
            us, spread = results.summary(seen.samples)
            known |= {"us": round(us, 4), "us_spread": round(spread, 4)}
        elif not known.get("note"):
            known["note"] = "another implementation of its process failed"
        if impl == YARDSTICK:
            known.setdefault("note", f"yardstick: a GEMM of 8192^3 in {'e4m3' if case.dtype == 'e4m3' else 'bf16'} in the same rounds")
        if impl == FLOOR:
            known.setdefault("note", "floor: a kernel that does nothing")
        return results.row(case, impl, **self._common(), version=self.versions.get(impl), **known)

    def _common(self) -> dict:
        date = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return {"run": self.settings.run, "gpu": self.gpu, "date": date}

    # ---- all of them

    def skipped(self, points: list[Point], why: str) -> list[results.Row]:
        return [results.row(c, impl, **self._common(), version=self.versions.get(impl), note=why) for p in points for _, c, impl in p.entries()]

    def run(self, after_point: Callable[[int, Point, list[results.Row], float], None]) -> list[results.Row]:
        """Every point, or as many as the budget allows; the rest get rows that say so. `after_point` sees the rows of each point and its start."""
        for index, point in enumerate(self.points):
            left = self.settings.budget_s - self.elapsed()
            usual = sum(self.durations[-5:]) / len(self.durations[-5:]) if self.durations else 3.0
            if left < 1.5 * usual:
                self.rows += self.skipped(self.points[index:], f"not run: the time budget of {self.settings.budget_s:.0f} s was used up")
                break
            began = self.settings.clock()
            rows = self.run_point(point, seconds=0.9 * left / (len(self.points) - index))
            self.durations.append(self.settings.clock() - began)
            self.rows += rows
            after_point(index, point, rows, began)
        return self.rows

    def close(self) -> None:
        for worker in self.workers.values():
            worker.close()


def speedup(rows: list[results.Row]) -> tuple[float, str] | None:
    """(best peer's time over ours, that peer) of one point's rows of its first dtype, or None where either is missing."""
    dtype = rows[0]["dtype"]
    timed = [r for r in rows if r["us"] and r["dtype"] == dtype and not (r["note"] or "").startswith("wrong")]
    ours = [r["us"] for r in timed if r["impl"] == OURS]
    peers = [(r["us"], r["impl"]) for r in timed if r["impl"] not in NOT_PEERS]
    return (min(peers)[0] / ours[0], min(peers)[1]) if ours and peers else None
