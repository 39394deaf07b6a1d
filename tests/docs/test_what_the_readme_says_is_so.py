"""The README and the contract page, held against the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from conformance.contract import page
from tests.suite import ROOT, run_suite, shown

README = (ROOT / "README.md").read_text()


def block(language: str, containing: str) -> str:
    """The README's code block in that language that contains a text."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    found = [text for kind, text in blocks if kind == language and containing in text]
    assert len(found) == 1, f"{len(found)} blocks contain {containing!r}"
    return found[0]


def test_the_contract_page_is_generated_from_the_code() -> None:
    assert (ROOT / "docs" / "contract.md").read_text() == page(), "python -m conformance.contract > docs/contract.md"


@pytest.mark.parametrize(
    "document",
    ["README.md", *sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("docs/**/*.md") if p.name != "head.md")],
)
def test_every_link_leads_somewhere(document: str) -> None:
    text = (ROOT / document).read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if not link.startswith("http")]
    missing = [link for link in links if not (ROOT / document).parent.joinpath(link).exists()]
    assert not missing


def test_every_option_it_names_exists() -> None:
    options = set(re.findall(r"--[a-z][a-z-]+", README))
    text = shown(run_suite("--help"))
    assert [option for option in sorted(options) if option not in text] == []


def test_the_implementation_with_a_bug_fails_as_it_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_lora.py").write_text(block("python", "# my_lora.py"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    arguments = ("--impl", "my_lora:MyLoRA", "--profile", "quick", "-k", "MATH-3")
    result = run_suite(*arguments, select="test_dense_math.py", detail="-q")
    said = shown(result)
    assert result.code == 1
    for line in block("", "adapter-leak in MATH-3").splitlines():
        assert line.strip() in said


def solid(text: str) -> str:
    """``text`` without white space: the README is wider than the files that are written."""
    return "".join(text.split())


@pytest.mark.vllm
def test_the_failure_of_vllm_is_the_one_it_shows(tmp_path: Path) -> None:
    pytest.importorskip("vllm", reason="make conformance IMPL=vllm installs it")
    arguments = ("-k", "WRAP-7", "--impl", "vllm", "--profile", "quick", "--write-regressions", str(tmp_path))
    said = shown(run_suite(*arguments, select="test_wrapping.py", detail="-q"))
    for line in block("", "weight-stolen in WRAP-7").splitlines()[1:]:
        assert line in said
    written = "".join(path.read_text() for path in tmp_path.glob("test_wrap_7_*_vllm.py"))
    assert solid(block("python", "test_wrap_7_weight_stolen")) in solid(written), "but for the width of lines"
