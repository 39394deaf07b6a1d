"""The terminal as the user sees it, without what differs from run to run."""

from __future__ import annotations

import re
import tempfile

from tests.suite import SECONDS, run

SUBJECTS = "tests.certification.subjects"


def lora_compat(*arguments: str) -> tuple[int, str]:
    """Exit code and screen of ``lora-compat`` with these arguments; regression files go to a passing directory."""
    with tempfile.TemporaryDirectory() as directory:
        given = arguments[0] != "certify" or "--write-regressions" in arguments
        elsewhere = [] if given else ["--write-regressions", directory]
        done = run(["conformance.cli", *arguments, *elsewhere])
    assert done.code is not None, f"no end within {SECONDS} s"
    return done.code, masked(done.output)


def masked(text: str) -> str:
    """Without progress, timings, line numbers, counts of cases, and places on this machine."""
    kept = [line for line in text.splitlines() if not re.fullmatch(r"[.FsE]+ *(\[ *\d+%\])?", line)]
    text = "\n".join(line.rstrip() for line in kept)
    text = re.sub(r"^\d+ (passed|failed|skipped).*$", "<totals>", text, flags=re.MULTILINE)
    text = re.sub(r'File "[^"]*/', 'File "', text)
    text = re.sub(r" at /\S*/", " at ", text)
    text = re.sub(r"line \d+", "line N", text)
    text = re.sub(r"\.py:\d+", ".py:N", text)
    text = re.sub(r"\(\d+ (exact|rounded) cases\)", r"(N \1 cases)", text)
    text = re.sub(r"\d\.\de-\d\d of", "X of", text)
    return re.sub(r"( *\d+){5}$", " <counts>", text, flags=re.MULTILINE)
