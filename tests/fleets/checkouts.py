"""Checkouts of this project on one machine, each run as its own user would."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from conformance.regressions.fresh import run_module
from tests.suite import ROOT, SECONDS, outside_of_pytest

_WANTED = ("conformance", "src", "strategies", "tests/implementations")
# A fault that few drawn cases show, a hundred or so.
RARE = "tests.implementations.broken:DropsOneAdapterOfMany"
RARE_CASE = "Case(layer=LayerSpec(input_size=4), max_rank=8, adapters=(AdapterSpec(rank=3, alpha=3.0),))"
ONE_CLAUSE = "conformance/test_dense_math.py::test_one_adapter_gives_what_merged_weights_give"


@dataclass(frozen=True, slots=True)
class Checkout:
    """A copy of the project's files."""

    root: Path

    @classmethod
    def at(cls, root: Path) -> Checkout:
        """A fresh one, with what is compiled."""
        for name in _WANTED:
            shutil.copytree(ROOT / name, root / name)
        shutil.copy(ROOT / "pyproject.toml", root)
        (root / "tests" / "__init__.py").touch()
        return cls(root)

    def run(self, *arguments: str) -> tuple[int, str]:
        """Exit code and screen of a Python module run in it."""
        environment = outside_of_pytest() | {"PYTHONPATH": str(self.root / "src")}
        done = run_module(arguments, self.root, environment, SECONDS)
        assert done.code is not None, f"no end within {SECONDS} s"
        return done.code, done.output

    def suite(self, *arguments: str, select: str = ONE_CLAUSE) -> tuple[int, str]:
        """Exit code and screen of the suite, or of ``select`` in it."""
        return self.run("pytest", select, "-v", "-p", "no:cacheprovider", "--no-proof", *arguments)
