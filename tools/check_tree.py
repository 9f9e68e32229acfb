"""Checks the house rules that a compiler does not: who may include whom, line and file lengths, paths of one machine.

The rooms and what each may include are in DESIGN.md, 'Rooms'.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MAX_LINE = 150
MAX_FILE = 500

# Room -> rooms whose headers it may include; every room may include itself and the public API.
ALLOWED: dict[str, set[str]] = {
    "plan": set(),
    "kernels": {"plan"},
    "emulator": {"plan", "kernels"},
    "cuda": {"plan", "kernels"},
    "cpu": {"plan"},
    "oracle": set(),
    "api": {"plan", "kernels", "emulator", "cuda", "cpu", "oracle"},
}
CONSTEXPR_PLAN_HEADERS_ONLY = {"kernels"}
OUTSIDERS = ("cli", "python", "bench")
CODE = {".h", ".hpp", ".cuh", ".cu", ".cpp", ".py"}
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^">]+)[">]')
# Built from parts, so that this file does not contain what it looks for.
MACHINE_PATHS = re.compile("|".join(["/" + "work/", "/" + "root/", "/" + "tmp/bash"]))


def tracked() -> list[Path]:
    names = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True, text=True)
    return [Path(name) for name in names.stdout.splitlines() if (ROOT / name).is_file()]


def room_of(header: str) -> str | None:
    """The room that an include path names, as the include roots include/ and src/ see it."""
    first = header.split("/")[0]
    if first in ("sm90", "tile", "quantize") or first.startswith("prefill"):
        return "kernels"
    return first if first in ALLOWED or first == "hopfill" else None


def is_host_free(path: Path) -> bool:
    """Whether a header may be read by NVRTC: no std and no CUDA header in it."""
    return not any(m and m[1] == "<" for m in map(INCLUDE.match, (ROOT / path).read_text().splitlines()))


def check_includes(path: Path, lines: list[str]) -> list[str]:
    parts = path.parts
    if parts[0] == "src" and len(parts) > 2 and parts[1] in ALLOWED:
        room = parts[1]
    elif parts[0] in OUTSIDERS:
        room = None
    elif parts[0] == "include":
        room = "include"
    else:
        return []
    faults = []
    for number, line in enumerate(lines, 1):
        m = INCLUDE.match(line)
        if not m:
            continue
        quoted, header = m[1] == '"', m[2]
        target = room_of(header) if quoted else None
        where = f"{path}:{number}: "
        if room == "kernels":
            if not quoted:
                faults.append(where + f"device code includes <{header}>")
            elif target == "hopfill":
                faults.append(where + f"device code includes the host API {header}")
            elif target == "plan" and not is_host_free(Path("src") / header):
                faults.append(where + f"{header} includes std headers, which device code has not")
        if target is None or target == room or target == "hopfill":
            continue
        if room is None or room == "include":
            faults.append(where + f"{parts[0]} may include include/hopfill only, not {header}")
        elif target not in ALLOWED[room]:
            faults.append(where + f"room {room} may not include {header}")
    return faults


def check_text(path: Path, lines: list[str]) -> list[str]:
    faults = [f"{path}:{n}: {len(line)} characters, at most {MAX_LINE}" for n, line in enumerate(lines, 1) if len(line) > MAX_LINE]
    faults += [f"{path}:{n}: a path of one machine" for n, line in enumerate(lines, 1) if MACHINE_PATHS.search(line)]
    if len(lines) > MAX_FILE and "generated" not in lines[0].lower() + lines[min(1, len(lines) - 1)].lower():
        faults.append(f"{path}: {len(lines)} lines, at most {MAX_FILE} in a file written by hand")
    return faults


def main() -> int:
    faults: list[str] = []
    for path in tracked():
        if path.suffix in CODE:
            lines = (ROOT / path).read_text().splitlines()
            faults += check_includes(path, lines) + check_text(path, lines)
    print("\n".join(faults) if faults else "tree: rooms, lines and files as they should be")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
