"""Runs the conformance suite as a user does, in a process of its own."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence

from conformance.regressions.fresh import Ended, run_module
from tests import forks

ROOT = forks.ROOT
SECONDS = 300.0


def run_suite(*arguments: str, select: str = "", torchrun: int = 0, detail: str = "-v") -> Ended:
    """``pytest conformance/ -v`` with these arguments; ``select`` is a test id inside ``conformance/``.

    Failures go to a store of their own, and regression tests are written without being proved. With ``torchrun``, in
    a job of so many processes.
    """
    with tempfile.TemporaryDirectory() as store:
        job = [*launcher(torchrun), *forks.PYTHON] if torchrun else []
        command = [*job, "pytest", f"conformance/{select}", detail, "-p", "no:cacheprovider", "-p", "tests.forks"]
        return run([*command, "--write-regressions", store, "--no-proof", *arguments])


def launcher(processes: int) -> list[str]:
    """Of a job of torchrun, for the command of its processes to follow."""
    return ["torch.distributed.run", "--nproc-per-node", str(processes), "--no-python"]


def run(command: Sequence[str]) -> Ended:
    """``python -m COMMAND`` in this checkout, as whoever has it would run it."""
    with forks.with_ours():
        return run_module(command, ROOT, outside_of_pytest() | {forks.SERVER: forks.address()}, SECONDS)


def shown(result: Ended) -> str:
    """All that the user saw."""
    return result.output


def outside_of_pytest() -> dict[str, str]:
    """The environment of a suite that a test runs, which is no worker of the tests' own run, nor has its plugins."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return environment | {"PYTEST_ADDOPTS": "-p no:anyio -p no:syrupy"}
