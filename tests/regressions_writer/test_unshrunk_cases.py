"""A case that nobody shrank has files that run, formatted like all others, with formulas for tensors.

Layers of a class of depth four, three adapters of rank 60 and six tokens do not fit into eighty lines: what the tests
pin is how long such a file may get.
"""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path

import hypothesis
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from conformance.regressions.handover import _length
from conformance.regressions.lora_compat_dialect import LoraCompat
from conformance.regressions.vllm_dialect import Vllm
from strategies.cases import Case, Regime
from strategies.drawing import cases
from tests.regressions_writer.test_files_stand_on_their_own import run_test, text_of

COUNT = 12
MOST_OF_INTEGERS = 400


@cache
def drawn(regime: Regime) -> list[Case]:
    """Cases of two ranks as they are drawn."""
    found: list[Case] = []

    @hypothesis.seed(1)
    @settings(
        max_examples=COUNT,
        database=None,
        deadline=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases(tp_sizes=(2,), regimes=(regime,)))
    def draw(case: Case) -> None:
        found.append(case)

    draw()
    return found


def text(case: Case, dialect: LoraCompat | Vllm) -> str:
    return text_of("MATH-1", "unexplained", case, dialect, "rank 0: out0[0, 0]=2, but should be 1")


@pytest.mark.parametrize("regime", Regime)
def test_the_file_passes_on_the_reference(regime: Regime) -> None:
    for case in drawn(regime):
        run_test(text(case, LoraCompat()))


@pytest.mark.parametrize("dialect", [LoraCompat(), Vllm()], ids=["lora_compat", "vllm"])
def test_it_is_formatted_and_not_longer_than_it_must_be(tmp_path: Path, dialect: LoraCompat | Vllm) -> None:
    for regime in Regime:
        for number, case in enumerate(drawn(regime)):
            written = text(case, dialect)
            (tmp_path / f"test_{regime.value}_{number}.py").write_text(written)
            assert regime is Regime.ROUNDED or written.count("\n") < MOST_OF_INTEGERS, written
    ruff = [sys.executable, "-m", "ruff", "--isolated", "--config", 'lint.isort.known-first-party=["lora_compat"]']
    for tool in (["format", "--check", "--diff", "--line-length", "88"], ["check", "--select", "E,F,W,I"]):
        done = subprocess.run([*ruff, *tool, str(tmp_path)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_a_run_says_how_long_such_a_file_is() -> None:
    assert _length("\n" * 79) == ""
    assert "It has 200 lines" in _length("\n" * 200)
