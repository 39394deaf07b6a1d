"""Certification from Python: one call, one test to paste."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conformance.regressions.fresh import Ended, ServerGone, run_module
from conformance.suite.exits import Exit


@dataclass(frozen=True, slots=True)
class Certified:
    """A class that is certified, or fails of known failures only.

    ``screen`` is what the command prints, ``certificate`` the document that `lora-compat verify` checks.
    """

    screen: str
    certificate: Mapping[str, Any]

    @property
    def verdicts(self) -> dict[str, str]:
        """The verdict on each clause."""
        (subject,) = self.certificate["subjects"]
        return {clause["id"]: clause["verdict"] for clause in subject["clauses"]}

    def __str__(self) -> str:
        return self.screen


class NotCertified(AssertionError):
    """A class that breaks a MUST, or for which one was not exercised; the message is the whole screen."""


class NotCertifiable(ValueError):
    """A class or an option that nothing can be certified with; the message says what would work."""


class CertificationFailed(RuntimeError):
    """The harness failed, so nothing is known of the class; the message is the whole screen, or why there is none."""


_ERRORS: dict[int | None, type[Exception]] = {Exit.FAILED: NotCertified, Exit.USAGE: NotCertifiable}


def certify(
    subject: type | str,
    *,
    recipe: str | None = None,
    impl: str | None = None,
    profile: str = "quick",
    options: Sequence[str] = (),
) -> Certified:
    """Certifies a linear layer class in a process of its own.

    Args:
        subject: the class, or ``package.module:Class``; it must be importable by that path.
        recipe: ``module:function`` that builds it, where its constructor says too little.
        impl: who wraps it; vLLM by default for a class of vLLM's layers, else the reference.
        profile: how many cases a clause.
        options: further options of ``lora-compat certify``, such as ``["--report", "my_linear.html"]``.

    Raises:
        NotCertified: a MUST is broken or was not exercised.
        NotCertifiable: the class, its recipe or an option cannot be used.
        CertificationFailed: the harness failed.
    """
    __tracebackhide__ = True
    path = subject if isinstance(subject, str) else _path_of(subject)
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "certificate.json"
        command = [path, "--profile", profile, *options, "--certificate", str(file)]
        for name, value in (("--recipe", recipe), ("--impl", impl)):
            if value is not None:
                command += [name, value]
        try:
            done = _run(command)
        except ServerGone as error:
            raise CertificationFailed(f"{path}\n{error}") from error
        if done.code != Exit.OK:
            said = "\n".join(filter(None, (done.stdout.strip(), done.stderr.strip())))
            raise _ERRORS.get(done.code, CertificationFailed)(f"{path}\n{said}")
        return Certified(done.stdout, json.loads(file.read_text(encoding="utf-8")))


def _path_of(cls: type) -> str:
    path = f"{cls.__module__}:{cls.__qualname__}"
    if cls.__module__ == "__main__" or "<locals>" in cls.__qualname__:
        raise NotCertifiable(f"{path} cannot be imported by that path: define it at the top of a module, not in a "
                             "function or the script itself")  # fmt: skip
    return path


def _run(command: Sequence[str]) -> Ended:
    """In a process of its own: the suite sets torch's and pytest's global state, and a hanging class must not stay."""
    paths = os.pathsep.join(filter(None, sys.path))  # what can be imported here can be imported there
    return run_module(["conformance.cli", "certify", *command], Path.cwd(), {**os.environ, "PYTHONPATH": paths}, None)
