"""docs/certify-model.md: its first command says what the page says."""

from __future__ import annotations

import re

import pytest

from tests.suite import ROOT, run_suite, shown

PAGE = (ROOT / "docs" / "certify-model.md").read_text(encoding="utf-8")
(SCREEN, *_) = re.findall(r"^```\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def measured(text: str) -> str:
    """Without how much a rounded case would have rejected: the rounding is that of the machine's own products."""
    return re.sub(r"\d\.\de-\d\d of", "X of", text)


@pytest.mark.vllm
def test_the_first_command_ends_as_it_shows() -> None:
    result = run_suite("-n", "2", "--certify-model", "llama", "--max-examples", "2", detail="-q")
    assert result.code == 0, shown(result)
    assert measured(SCREEN.strip()) in measured(shown(result)), shown(result)
