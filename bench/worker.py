"""One process of the bench: builds, checks and times the implementations that run.py asks for, one JSON object a line on stdin and stdout.

Requests: {"do": "setup", "names": [...]}, {"do": "prepare", "case": {...}, "names": [...]}, {"do": "warm", "name": ...},
{"do": "measure", "name": ...}, {"do": "release"}. A reply is a JSON object, with "error" where the request itself failed.
"""

from __future__ import annotations

import json
import os
import sys
import time

import torch
from cases import FLOOR, YARDSTICK, Case, out_dtype_of
from peers import IMPLEMENTATIONS, Unsupported
from problem import Problem, name_of

GRAPH_LAUNCHES, GRAPH_MS = 40, 10.0  # a graph holds up to 40 launches, but at most 10 ms, and at least one
# A measurement lasts 8 ms behind a lead as long, in which the host gets ahead of the GPU, and clocks and power leave what ran before behind.
ROUND_MS, LEAD_MS = 8.0, 8.0
WRONG, WRONG_FP8 = 0.02, 0.06  # RMS error relative to the output's RMS; bf16 rounding gives 2e-3, e4m3 weights 2.6e-2, an e4m3 output 3.6e-2


def one_line(error: BaseException, limit: int = 240) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:limit]


def launches_in_graph(us: float) -> int:
    return max(1, min(GRAPH_LAUNCHES, int(GRAPH_MS * 1e3 / max(us, 1e-3))))


class Built:
    """An implementation of the case in hand: its call, and the graph that times it."""

    def __init__(self, name: str, problem: Problem):
        self.name = name
        self.call, self.output = IMPLEMENTATIONS[name].build(problem)
        self.graph: torch.cuda.CUDAGraph | None = None
        self.launches = self.replays = self.lead = 1

    def warm(self) -> dict:
        """Host time of a call, then the graph."""
        us = self._elapsed_us(self.call, 2, lead=1)
        host_us = self._host_us(us)
        self.launches = launches_in_graph(us)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self.call()
        torch.cuda.synchronize()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, stream=stream):
            for _ in range(self.launches):
                self.call()
        graph_ms = self._elapsed_us(self.graph.replay, 1, lead=1) / 1e3
        self.replays = max(1, min(100, round(ROUND_MS / graph_ms)))
        self.lead = max(1, min(20, round(LEAD_MS / graph_ms)))
        return {"host_us": round(host_us, 2), "launches": self.launches}

    def measure(self) -> dict:
        return {"us": self._elapsed_us(self.graph.replay, self.replays, self.lead) / self.launches}

    @staticmethod
    def _elapsed_us(call, count: int, lead: int) -> float:
        """GPU time of one call, by events around `count` of them. Those ahead of the first event keep the GPU busy while the host catches up."""
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        for _ in range(lead):
            call()
        start.record()
        for _ in range(count):
            call()
        stop.record()
        torch.cuda.synchronize()
        return start.elapsed_time(stop) * 1e3 / count

    def _host_us(self, us: float) -> float:
        """Median time that a call keeps the host; few calls where they are long, so that none waits for room in the queue."""
        times = []
        for _ in range(int(max(5, min(200, 20e3 / max(us, 1))))):
            start = time.perf_counter()
            self.call()
            times.append(time.perf_counter() - start)
        torch.cuda.synchronize()
        return sorted(times)[len(times) // 2] * 1e6


class Worker:
    def __init__(self) -> None:
        self.problems: dict[str, Problem] = {}
        self.built: dict[str, Built] = {}

    def setup(self, names: list[str]) -> dict:
        torch.cuda.init()
        torch.backends.cuda.matmul.allow_tf32 = False
        versions, failed, done = {}, {}, {}
        for name in names:
            setup = IMPLEMENTATIONS[name].setup
            if setup not in done:
                try:
                    done[setup] = (setup(), None)
                except BaseException as error:  # a broken peer may raise anything
                    done[setup] = (None, one_line(error))
            version, reason = done[setup]
            if reason:
                failed[name] = f"not available: {reason}"
            else:
                versions[name] = version
        keys = {}
        if "hopfill" in versions:
            import hopfill

            keys = {k["name"]: k["key"] for k in hopfill.info()["kernels"]}
        properties = torch.cuda.get_device_properties(0)
        return {"versions": versions, "failed": failed, "keys": keys, "gpu": properties.name, "sms": properties.multi_processor_count}

    def prepare(self, case: dict, names: list[str]) -> dict:
        """Builds and checks; `names` may carry a dtype, as in hopfill@f16."""
        self.release()
        results, references = {}, {}
        for name in names:
            plain, _, dtype = name.partition("@")
            try:
                fields = {k: tuple(v) if isinstance(v, list) else v for k, v in case.items()}
                if dtype:
                    fields |= {"dtype": dtype, "out_dtype": out_dtype_of(dtype)}
                if dtype not in self.problems:
                    self.problems[dtype] = Problem(Case(**fields))
                problem = self.problems[dtype]
                built = Built(plain, problem)
                built.call()
                torch.cuda.synchronize()
                result = {}
                if plain not in (YARDSTICK, FLOOR):
                    if dtype not in references:
                        rows = problem.sampled_rows()
                        references[dtype] = (rows, problem.reference(rows))
                    output = built.output()
                    rms, largest, relative = problem.errors(output, *references[dtype])
                    result["out_dtype"] = name_of(output.dtype)
                    if not relative < (WRONG_FP8 if problem.is_fp8 else WRONG):
                        result["wrong"] = f"wrong: RMS error {rms:.3g}, {relative:.3g} of the output's RMS"
                    result |= {"rms_err": _finite(rms), "max_err": _finite(largest)}
                if hasattr(built.call, "plan"):
                    result["kernel"] = built.call.plan().kernel
                self.built[name] = built
                results[name] = result
            except Unsupported as reason:
                results[name] = {"note": str(reason)}
            except Exception as error:
                results[name] = {"note": one_line(error)}
                if "CUDA error" in str(error):  # the context is lost, and with it this process
                    results[name]["fatal"] = True
                    break
        references.clear()
        return {"results": results}

    def warm(self, name: str) -> dict:
        return self.built[name].warm()

    def measure(self, name: str) -> dict:
        return self.built[name].measure()

    def release(self) -> dict:
        self.built.clear()
        self.problems.clear()
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        return {}


def _finite(value: float) -> float | None:
    return value if value == value and abs(value) != float("inf") else None


def main() -> None:
    # Libraries print: the protocol keeps the first standard output to itself, and what is printed goes to standard error.
    protocol = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    worker = Worker()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            reply = getattr(worker, request.pop("do"))(**request)
        except Exception as error:
            reply = {"error": one_line(error)}
        protocol.write(json.dumps(reply) + "\n")


if __name__ == "__main__":
    main()
