"""Clocks, power and temperature while the bench runs, by nvidia-smi."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import threading
import time

QUERY = "clocks.sm,power.draw,temperature.gpu"


class GpuLog:
    """Samples twice a second; summary(since) says what was seen since then, or {} where nvidia-smi is missing."""

    def __init__(self) -> None:
        self.samples: list[tuple[float, float, float, float]] = []
        self.process = None
        if shutil.which("nvidia-smi"):
            command = ["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader,nounits", "-i", "0", "-lms", "500"]
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self.add(time.monotonic(), line)

    def add(self, now: float, line: str) -> None:
        try:
            mhz, watt, celsius = (float(x) for x in line.split(","))
        except ValueError:  # "[N/A]", or a line cut short at the end
            return
        self.samples.append((now, mhz, watt, celsius))

    def summary(self, since: float) -> dict:
        seen = [s[1:] for s in list(self.samples) if s[0] >= since]
        if not seen:
            return {}
        mhz, watt, celsius = zip(*seen, strict=True)
        return {
            "samples": len(seen),
            "sm_mhz_median": statistics.median(mhz),
            "sm_mhz_min": min(mhz),
            "sm_mhz_max": max(mhz),
            "watt_median": round(statistics.median(watt), 1),
            "watt_max": max(watt),
            "celsius_max": max(celsius),
        }

    def close(self) -> None:
        if self.process:
            self.process.terminate()
            self.process.wait()
