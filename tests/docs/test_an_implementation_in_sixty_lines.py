"""docs/implement.md: an implementation of sixty lines, and what it says of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.suite import ROOT, run_suite, shown

PAGE = (ROOT / "docs" / "implement.md").read_text()
(SOURCE,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def test_it_has_sixty_lines_but_for_blank_ones() -> None:
    assert sum(1 for line in SOURCE.splitlines() if line.strip() and not line.startswith("#")) <= 60


def test_it_is_conformant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiny_lora.py").write_text(SOURCE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    result = run_suite("--impl", "tiny_lora:TinyLoRA", "--max-examples", "12", detail="-q")
    assert result.code == 0, shown(result)
    assert "conformant:" in shown(result)
