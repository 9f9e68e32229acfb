"""Worker processes as run.py sees them: requests with a time limit, and what a dead one leaves behind."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections import deque
from pathlib import Path

# Which implementations share a process. Each library has its own: some do not bear another's CUDA runtime or frontend, and a crash stays inside.
PROCESSES = {
    "ours": ("hopfill", "hopfill-vt", "hopfill-bf16"),
    "torch": ("gemm", "empty", "cudnn", "fa2"),
    "flashinfer": (
        "flashinfer-fa2",
        "flashinfer-fa3",
        "fmha_v2",
        "flashinfer-fa2-nosplit",
        "flashinfer-fa2-single",
        "flashinfer-fa3-single",
        "fmha_v2-packed",
    ),
    "cudnn-fe": ("cudnn-fe",),
    "fa3": ("fa3", "fa3-split"),
    "fa3-vllm": ("fa3-vllm", "fa3-vllm-split"),
    "fa4": ("fa4",),
}
PROCESS_OF = {name: process for process, names in PROCESSES.items() for name in names}

WORKER = Path(__file__).with_name("worker.py")


class WorkerDied(Exception):
    pass


class Process:
    """One worker.py. send() and receive() apart let several work at once."""

    def __init__(self, name: str, python: str = sys.executable):
        self.name = name
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (lives as long as the process)
        self.process = subprocess.Popen(
            [python, str(WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        self.replies: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self.replies.put(line)
        self.replies.put(None)

    def send(self, do: str, **arguments) -> None:
        try:
            self.process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise WorkerDied(self.last_words()) from None

    def receive(self, seconds: float) -> dict:
        try:
            line = self.replies.get(timeout=seconds)
        except queue.Empty:
            self.kill()
            raise WorkerDied(f"no answer in {seconds:.0f} s") from None
        if line is None:
            raise WorkerDied(self.last_words())
        return json.loads(line)

    def request(self, do: str, seconds: float, **arguments) -> dict:
        self.send(do, **arguments)
        return self.receive(seconds)

    def last_words(self) -> str:
        self.kill()
        self.errors.seek(0)
        lines = deque((line.strip() for line in self.errors if line.strip()), maxlen=1)
        return f"its process ended with status {self.process.returncode}" + (f": {lines[0][:200]}" if lines else "")

    def kill(self) -> None:
        self.process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # a kernel that never ends holds its process until the driver gives up
            self.process.wait(10)

    def close(self) -> None:
        self.process.stdin.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.kill()
