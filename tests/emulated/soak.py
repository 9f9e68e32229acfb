#!/usr/bin/env python3
"""Explores random schedules of every kernel under the emulator: ./dev soak [--record] [SCHEDULES] [FIRST] (default 10,000 from 0).

--record keeps the outcome in evidence/soak.json, with the commit and the tree of src/kernels that ran; nothing uncommitted may be in src/ then.
"""

import argparse
import datetime
import json
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "build" / "emulator_soak"
LAST_LINE = re.compile(
    r"soak: (?P<schedules>\d+) schedules of (?P<kernels>\d+) kernels, (?P<faults>\d+) faults, (?P<steps>\d+) steps, (?P<seconds>\d+) s"
)


def git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("schedules", type=int, nargs="?", default=10000)
    arguments.add_argument("first", type=int, nargs="?", default=0)
    arguments.add_argument("--record", action="store_true", help="keep the outcome in evidence/soak.json")
    options = arguments.parse_args()
    if not PROGRAM.exists():
        sys.exit(f"{PROGRAM} is missing: run ./dev build first")
    if options.record and git("status", "--porcelain", "--", "src", "tests/emulated"):
        sys.exit("soak: --record names a commit, and src/ or tests/emulated/ has uncommitted changes")
    source = {"commit": git("rev-parse", "HEAD"), "kernels_tree": git("rev-parse", "HEAD:src/kernels")}
    outcome = None
    with subprocess.Popen([str(PROGRAM), str(options.schedules), str(options.first)], stdout=subprocess.PIPE, text=True) as run:
        for line in run.stdout:
            print(line, end="", flush=True)
            outcome = LAST_LINE.match(line) or outcome
    if options.record:
        if outcome is None:
            sys.exit("soak: the run did not end; nothing is recorded")
        record = {
            **source,
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "first": options.first,
            **{name: int(value) for name, value in outcome.groupdict().items()},
        }
        (ROOT / "evidence" / "soak.json").write_text(json.dumps(record, indent=1) + "\n")
    return run.returncode


if __name__ == "__main__":
    sys.exit(main())
