"""docs/tutorial.md: its class, before and after, says what the page says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.certification.screens import lora_compat
from tests.suite import ROOT

BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", (ROOT / "docs" / "tutorial.md").read_text(), re.DOTALL | re.MULTILINE)
CODE, SCREENS = ([text for kind, text in BLOCKS if kind == wanted] for wanted in ("python", ""))
BEFORE, FORWARD, KEPT = CODE


def certified(source: str, folder: Path, patch: pytest.MonkeyPatch, *more: str) -> tuple[int, str]:
    """Exit code and screen of the page's command on a class with this source."""
    (folder / "my_layers.py").write_text(source, encoding="utf-8")
    patch.setenv("PYTHONPATH", str(folder))
    return lora_compat("certify", "my_layers:CappedLinear", *more)


def test_the_first_attempt_is_refused_as_it_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, screen = certified(BEFORE, tmp_path, monkeypatch)
    assert code == 1
    for line in SCREENS[0].splitlines():
        assert line in screen


def test_the_mended_class_is_certified_and_its_certificate_verified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mended = BEFORE[: BEFORE.index("    def forward")] + FORWARD
    file = str(tmp_path / "capped.json")
    code, screen = certified(mended, tmp_path, monkeypatch, "--certificate", file)
    assert code == 0, screen
    assert SCREENS[1].strip() in screen
    assert lora_compat("verify", file)[0] == 0


def test_the_test_to_keep_is_python_that_imports_the_class() -> None:
    compile(KEPT, "test_my_layers.py", "exec")
    assert "from my_layers import CappedLinear" in KEPT
