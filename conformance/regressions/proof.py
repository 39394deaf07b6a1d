"""Proof: a test file run in a fresh process, where it must fail for the reason it was written for, or pass."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

TIMEOUT_SECONDS = 300


@dataclass(frozen=True, slots=True)
class FileRun:
    """What pytest said of one file: its exit code (0 passed, 1 failed, anything else is an error) and its output."""

    code: int
    output: str

    @property
    def last_line(self) -> str:
        """The line that says most: the first one that pytest marks as an error, or the last of all."""
        lines = self.output.strip().splitlines()
        return next((line[1:].strip() for line in lines if line.startswith("E  ")), lines[-1] if lines else "")


def run_file(path: Path, python: str = sys.executable) -> FileRun:
    """Runs ``pytest FILE`` as a stranger does: in its own directory, with no configuration or option of ours."""
    command = [python, "-m", "pytest", path.name, "-vv", "--tb=short", "--color=no", "-p", "no:cacheprovider"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST_", "COV_"))}
    environment["OMP_NUM_THREADS"] = "1"
    try:
        done = subprocess.run(
            [*command, "-c", os.devnull, "--rootdir", "."],
            cwd=path.resolve().parent,
            env=environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return FileRun(-1, f"no end within {TIMEOUT_SECONDS} s")
    return FileRun(done.returncode, done.stdout + done.stderr)
