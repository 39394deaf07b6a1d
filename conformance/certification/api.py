"""Certification from Python: one call, one test to paste."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence


class NotCertified(AssertionError):
    """A class that is not certified, or that could not be run; the message is the whole screen."""


def certify(
    subject: type | str,
    *,
    recipe: str | None = None,
    impl: str | None = None,
    profile: str = "quick",
    options: Sequence[str] = (),
) -> str:
    """Certifies a linear layer class in a process of its own, and returns the screen that says so.

    Args:
        subject: the class, or ``package.module:Class``; it must be importable by that path.
        recipe: ``module:function`` that builds it, where its constructor says too little.
        impl: who wraps it; vLLM by default for a class of vLLM's layers, else the reference.
        profile: how many cases a clause.
        options: further options of ``lora-compat certify``, such as ``["--certificate", "my.json"]``.

    Raises:
        NotCertified: a MUST is broken or was not exercised, or the class cannot be certified at all.
    """
    __tracebackhide__ = True
    path = subject if isinstance(subject, str) else f"{subject.__module__}:{subject.__qualname__}"
    command = [sys.executable, "-m", "conformance.cli", "certify", path, "--profile", profile, *options]
    for name, value in (("--recipe", recipe), ("--impl", impl)):
        if value is not None:
            command += [name, value]
    # A process of its own: the suite sets torch's and pytest's global state, and a hanging class must not stay.
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise NotCertified(f"{path} is not certified\n{done.stdout}{done.stderr}")
    return done.stdout
