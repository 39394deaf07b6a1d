"""Where the time of `make test` goes: seconds of each room, from the file that pytest's ``--junitxml`` writes.

make test ARGS=--junitxml=junit.xml && python -m benchmarks.tests junit.xml
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree


def seconds_of(file: Path, parts: int) -> tuple[Counter[str], Counter[str]]:
    """Seconds and numbers of tests, by the first ``parts`` of a test's module."""
    seconds: Counter[str] = Counter()
    tests: Counter[str] = Counter()
    for test in ElementTree.parse(file).getroot().iter("testcase"):
        where = "/".join(test.attrib["classname"].split(".")[:parts])
        seconds[where] += float(test.attrib["time"])
        tests[where] += 1
    return seconds, tests


def main() -> None:
    """A table of the rooms, then one of the ten slowest modules."""
    for parts, most in ((2, None), (3, 10)):
        seconds, tests = seconds_of(Path(sys.argv[1]), parts)
        print("| where | tests | seconds |\n|---|---|---|")
        for where, total in seconds.most_common(most):
            print(f"| {where} | {tests[where]} | {total:.1f} |")
        print(f"| all | {sum(tests.values())} | {sum(seconds.values()):.1f} |\n")


if __name__ == "__main__":
    main()
