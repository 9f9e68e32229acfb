#!/usr/bin/env python3
"""Explores random schedules of every kernel under the emulator: ./dev soak [SCHEDULES] [FIRST] (default 10,000 from 0)."""

import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]

if __name__ == "__main__":
    program = ROOT / "build" / "emulator_soak"
    if not program.exists():
        sys.exit(f"{program} is missing: run ./dev build first")
    sys.exit(subprocess.run([str(program), *sys.argv[1:]], check=False).returncode)
