"""Runs the conformance suite as a user does, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def run_suite(*arguments: str, select: str = "") -> subprocess.CompletedProcess[str]:
    """``pytest conformance/`` with these arguments; ``select`` is a test id inside ``conformance/``."""
    command = [sys.executable, "-m", "pytest", f"conformance/{select}", "-q", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


def shown(result: subprocess.CompletedProcess[str]) -> str:
    """All that the user saw."""
    return result.stdout + result.stderr
