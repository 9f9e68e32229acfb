"""Installs the library into a temporary folder, builds the README's C++ example against it with find_package(hopfill), and runs it."""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

PROJECT = """cmake_minimum_required(VERSION 3.25)
project(consumer LANGUAGES CXX)
find_package(hopfill 0.1 REQUIRED)
add_executable(example example.cpp)
target_link_libraries(example PRIVATE hopfill::hopfill)
"""


def example_of(readme: Path) -> str:
    found = re.findall(r"^```cpp\n(.*?)^```", readme.read_text(), re.MULTILINE | re.DOTALL)
    if len(found) != 1:
        sys.exit(f"{readme} has {len(found)} cpp blocks; one is expected")
    return found[0]


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("build", "source", "cmake", "compiler"):
        parser.add_argument(f"--{name}", required=True)
    a = parser.parse_args()

    def run(*command: object, **options) -> subprocess.CompletedProcess:
        return subprocess.run([str(c) for c in command], check=True, **options)

    with tempfile.TemporaryDirectory() as folder:
        prefix, project, build = (Path(folder) / name for name in ("prefix", "project", "build"))
        run(a.cmake, "--install", a.build, "--prefix", prefix, "--component", "library", stdout=subprocess.DEVNULL)
        project.mkdir()
        (project / "CMakeLists.txt").write_text(PROJECT)
        (project / "example.cpp").write_text(example_of(Path(a.source) / "README.md"))
        flags = [f"-DCMAKE_PREFIX_PATH={prefix}", f"-DCMAKE_CXX_COMPILER={a.compiler}", "-DCMAKE_CXX_FLAGS=-Wall -Wextra -Werror"]
        run(a.cmake, "-S", project, "-B", build, *flags, stdout=subprocess.DEVNULL)
        run(a.cmake, "--build", build)
        library = next(prefix.glob("lib*/**/libhopfill.so"))
        exported = run("nm", "-DC", "--defined-only", library, capture_output=True, text=True).stdout
        leaked = [line for line in exported.splitlines() if re.search(r" [TDBR] hopfill::(planner|cuda|cpu|oracle|emulator)::", line)]
        if leaked:
            sys.exit("the library exports what is inside:\n" + "\n".join(leaked[:10]))
        output = run(build / "example", capture_output=True, text=True, env={**os.environ, "HOME": folder}).stdout
        print(output)
        if "o[0] = " not in output:
            sys.exit("the example does not print its result")


if __name__ == "__main__":
    main()
