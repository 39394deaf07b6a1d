"""Runs the conformance suite as a user does, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent


def run_suite(
    *arguments: str, select: str = "", torchrun: int = 0, detail: str = "-v"
) -> subprocess.CompletedProcess[str]:
    """``pytest conformance/ -v`` with these arguments; ``select`` is a test id inside ``conformance/``.

    Failures go to a store of their own, and regression tests are written without being proved. With ``torchrun``, in
    a job of so many processes.
    """
    with tempfile.TemporaryDirectory() as store:
        job = ["-m", "torch.distributed.run", "--nproc-per-node", str(torchrun)] if torchrun else []
        command = [sys.executable, *job, "-m", "pytest", f"conformance/{select}", detail, "-p", "no:cacheprovider"]
        command += ["--write-regressions", store, "--no-proof", *arguments]
        return subprocess.run(
            command, cwd=ROOT, env=outside_of_pytest(), capture_output=True, text=True, timeout=300, check=False
        )


def shown(result: subprocess.CompletedProcess[str]) -> str:
    """All that the user saw."""
    return result.stdout + result.stderr


def outside_of_pytest() -> dict[str, str]:
    """The environment of a suite that a test runs, which is no worker of the tests' own run."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
