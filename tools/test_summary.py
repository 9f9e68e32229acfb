"""Adds up JUnit files and prints 'N passed, N failed' last: test_summary.py STATUS FILE..."""

import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path


def count(path: Path) -> tuple[int, int, list[str]]:
    passed = failed = 0
    skipped: list[str] = []
    for case in ElementTree.parse(path).getroot().iter("testcase"):
        skip = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            failed += 1
        elif skip is not None or case.get("status") in ("notrun", "disabled"):
            skipped.append(case.get("name", "?"))
        else:
            passed += 1
    return passed, failed, skipped


def main() -> int:
    status = int(sys.argv[1])
    passed = failed = 0
    skipped: list[str] = []
    for name in sys.argv[2:]:
        path = Path(name)
        if not path.exists():
            print(f"{path} was not written")
            failed += 1
            continue
        p, f, s = count(path)
        passed, failed, skipped = passed + p, failed + f, skipped + s
    if status and not failed:
        failed = 1  # a step outside the JUnit files
    if skipped:
        print(f"{len(skipped)} skipped (no GPU, or what they need is absent)")
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
