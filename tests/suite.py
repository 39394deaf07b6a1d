"""Runs the conformance suite as a user does, in a process of its own."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from conformance.regressions.fresh import Ended, run_module

ROOT = Path(__file__).parent.parent
SECONDS = 300.0


def run_suite(*arguments: str, select: str = "", torchrun: int = 0, detail: str = "-v") -> Ended:
    """``pytest conformance/ -v`` with these arguments; ``select`` is a test id inside ``conformance/``.

    Failures go to a store of their own, and regression tests are written without being proved. With ``torchrun``, in
    a job of so many processes.
    """
    with tempfile.TemporaryDirectory() as store:
        job = ["torch.distributed.run", "--nproc-per-node", str(torchrun), "-m"] if torchrun else []
        command = [*job, "pytest", f"conformance/{select}", detail, "-p", "no:cacheprovider"]
        command += ["--write-regressions", store, "--no-proof", *arguments]
        return run_module(command, ROOT, outside_of_pytest(), SECONDS)


def shown(result: Ended) -> str:
    """All that the user saw."""
    return result.output


def outside_of_pytest() -> dict[str, str]:
    """The environment of a suite that a test runs, which is no worker of the tests' own run."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
