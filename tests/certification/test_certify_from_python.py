"""`lora_compat.certify` is one line of somebody's test, and says what the command says."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import pytest

import lora_compat
from conformance.certification.api import CertificationFailed, NotCertifiable, certify
from conformance.regressions.fresh import Ended, run_module
from tests.certification.subjects.foreign import ForeignLinear
from tests.certification.subjects.plain import PlainLinear
from tests.suite import ROOT, SECONDS, outside_of_pytest

PASTED = """
import lora_compat
from lora_compat import ColumnParallelLinear


class MyLinear(ColumnParallelLinear):
    pass


def test_lora_works_on_my_linear():
    result = lora_compat.certify(MyLinear, options=["--max-examples", "3"])
    assert result.verdicts["MATH-1"] == "pass"
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that says what an installed package says of its entry points."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    ((name, reference),) = project["entry-points"]["lora_compat.certifiers"].items()
    information = tmp_path / "installed" / "certifier-0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: certifier\nVersion: 0\n", encoding="utf-8")
    (information / "entry_points.txt").write_text(f"[lora_compat.certifiers]\n{name} = {reference}\n", "utf-8")
    monkeypatch.syspath_prepend(str(information.parent))
    return information.parent


def test_the_test_of_the_docs_passes_as_pasted_into_a_file_with_its_class(installed: Path, tmp_path: Path) -> None:
    file = tmp_path / "test_my_linear.py"
    file.write_text(PASTED, encoding="utf-8")
    paths = os.pathsep.join(map(str, (installed, ROOT, ROOT / "src")))
    done = run_module(["pytest"], tmp_path, outside_of_pytest() | {"PYTHONPATH": paths}, SECONDS)
    assert done.code == 0, done.output
    assert "1 passed" in done.stdout


@pytest.mark.parametrize(
    ("subject", "arguments", "said"),
    [
        (ForeignLinear, {}, "no linear layer: "),
        (PlainLinear, {"impl": "nobody"}, "--impl 'nobody' is unknown"),
        (PlainLinear, {"options": ["--no-such-option"]}, "--no-such-option"),
    ],
)
def test_what_cannot_be_certified_is_an_error_in_a_few_lines_and_no_failure(subject, arguments, said: str) -> None:
    with pytest.raises(NotCertifiable) as raised:
        certify(subject, **arguments)
    assert said in str(raised.value)
    assert "Traceback" not in str(raised.value)
    assert len(str(raised.value).splitlines()) <= 10
    assert not isinstance(raised.value, AssertionError)


def test_a_class_inside_a_function_cannot_be_imported_by_another_process() -> None:
    class Local(PlainLinear):
        pass

    with pytest.raises(NotCertifiable, match="define it at the top of a module"):
        certify(Local)


def test_a_harness_that_fails_is_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("conformance.certification.api._run", lambda command: Ended(2, "collapsed", ""))
    with pytest.raises(CertificationFailed, match="collapsed"):
        certify(PlainLinear)


def test_without_a_suite_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lora_compat.certifying.entry_points", lambda group: [])
    with pytest.raises(ImportError, match=r"pip install 'lora-compat\[conformance\]'"):
        lora_compat.certify(PlainLinear)
