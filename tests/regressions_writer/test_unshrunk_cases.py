"""A case that nobody shrank has files that run, formatted like all others, with tensors and rows as strings.

Layers of a class of depth four, three adapters of rank 60 and six tokens do not fit into eighty lines: what the tests
pin is how long such a file may get.
"""

from __future__ import annotations

import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from hypothesis import Phase

from conformance.judging.facts import Aspect, Difference, Place, Sighting
from conformance.regressions.entries import StoredFailure
from conformance.regressions.proof import run_file, same_reason
from conformance.search.drawing import draw_cases
from conformance.test_files.handover import _length
from conformance.test_files.literals import NUMBERS, rows
from conformance.test_files.lora_compat_dialect import LoraCompat
from conformance.test_files.vllm_dialect import Vllm
from conformance.test_files.writer import write_all
from strategies.cases import Case, Dtype, Layout, Regime
from strategies.drawing import cases
from tests.regressions_writer.examples import entry_of
from tests.regressions_writer.test_files_stand_on_their_own import run_test, text_of

COUNT = 12
MOST_LINES = {Regime.EXACT: 200, Regime.ROUNDED: 1500}  # one of the rounded ones is large


@cache
def drawn(regime: Regime) -> list[Case]:
    """Cases of two ranks as they are drawn, but of forwards for which the reference refuses several adapters."""
    found: list[Case] = []
    source = cases(tp_sizes=(2,), regimes=(regime,)).filter(lambda case: not case.subclass.forward.mixes_tokens)
    draw_cases(source, found.append, examples=COUNT, seed=1, phases=(Phase.generate,))
    return found


@cache
def texts(regime: Regime) -> list[tuple[str, ...]]:
    """Their files, for lora_compat and for plain vLLM."""
    entries = [entry_of("MATH-1", "unexplained", case) for case in drawn(regime)]
    return [tuple(map(str, files)) for files in write_all([(entry, entry.failures[0]) for entry in entries])]


@pytest.mark.parametrize("regime", Regime)
def test_the_file_passes_on_the_reference(regime: Regime) -> None:
    for text, _ in texts(regime):
        run_test(text)


@pytest.mark.parametrize("dialect", [0, 1], ids=["lora_compat", "vllm"])
def test_it_is_formatted_and_not_longer_than_it_must_be(tmp_path: Path, dialect: int) -> None:
    for regime in Regime:
        for number, files in enumerate(texts(regime)):
            (tmp_path / f"test_{regime.value}_{number}.py").write_text(files[dialect])
            assert "def test_math_1_unexplained(" in files[dialect]
            assert files[dialect].count("\n") < MOST_LINES[regime], files[dialect]
    ruff = [sys.executable, "-m", "ruff", "--isolated", "--config", 'lint.isort.known-first-party=["lora_compat"]']
    for tool in (["format", "--check", "--diff", "--line-length", "88"], ["check", "--select", "E,F,W,I"]):
        done = subprocess.run([*ruff, *tool, str(tmp_path)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("dialect", [LoraCompat(), Vllm()], ids=["lora_compat", "vllm"])
def test_a_case_without_tokens_has_a_file_whatever_its_dtype(dialect: LoraCompat | Vllm) -> None:
    case = Case(dtype=Dtype.BFLOAT16, regime=Regime.ROUNDED, tokens=(), layout=Layout.THREE_D)
    assert "def test_math_7_raised(" in text_of("MATH-7", "raised", case, dialect)


def test_a_run_says_how_long_such_a_file_is() -> None:
    assert _length("\n" * 79) == ""
    assert "It has 200 lines" in _length("\n" * 200)


@pytest.mark.parametrize("count", [1, 2])
def test_rows_that_have_no_place_on_a_line_are_a_string_that_gives_the_same_rows(count: int) -> None:
    many = [[1.0, -0.0, 0.1, -2.5, 1e-20]] * 9
    value = many if count == 1 else [many] * count
    assert "numbers(" not in rows(many[:2])
    written = rows(value)
    assert written.count("numbers(") == count
    namespace: dict[str, object] = {}
    exec(NUMBERS, namespace)
    assert repr(eval(written, namespace)) == repr(value)


def test_a_file_with_rows_as_strings_fails_with_the_numbers_that_were_seen(tmp_path: Path) -> None:
    shown = next(text for text, _ in texts(Regime.EXACT) if "numbers(" in text.partition("def test_")[2])
    head, test, expected = shown.partition("def test_")
    right = re.search(r'numbers\(\s*"(\S+?)[ ;]', expected)
    assert right is not None
    wrong = right[0].replace(right[1], "1000")
    path = tmp_path / "test_changed.py"
    path.write_text(head + test + expected.replace(right[0], wrong, 1))
    run = run_file(path)
    assert same_reason(run, failure_with(float(right[1]))), run.output
    assert not same_reason(run, failure_with(999.0))


def failure_with(actual: float) -> StoredFailure:
    seen = Sighting(Difference(Aspect.VALUE, actual, 1000.0, 0, (0, 0)), Place(rank=0))
    return StoredFailure("MATH-1", "unexplained", str(seen), "reference", seen=seen.to_dict())
