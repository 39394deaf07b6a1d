"""What a seed draws is the same whatever else this process has done."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
from hypothesis import Phase

from conformance.search.drawing import draw_cases
from strategies.codec import Spec
from strategies.drawing import cases


def drawn() -> list[Spec]:
    found: list[Spec] = []
    draw_cases(cases(), found.append, examples=60, seed=7, phases=(Phase.generate,))
    return found


def test_a_module_imported_in_between_changes_no_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = drawn()
    source = tmp_path / "full_of_numbers.py"
    source.write_text(f"NUMBERS = [{', '.join(map(str, range(2, 200)))}]\n")
    spec = importlib.util.spec_from_file_location("full_of_numbers", source)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "full_of_numbers", module)
    spec.loader.exec_module(module)
    assert drawn() == before
