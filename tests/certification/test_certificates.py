"""A certificate is believed only while it is complete, unaltered, green, and of a class that is still the same."""

from __future__ import annotations

import json
import re
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from conformance.certification import environment
from conformance.certification.api import Certified, certify
from conformance.certification.certificate import digest
from conformance.certification.verification import CertificateError, verify
from conformance.contract import CONTRACT
from conformance.test_files.scenes import reference
from lora_compat import __version__
from tests.certification.screens import SUBJECTS, lora_compat
from tests.certification.subjects.plain import PlainLinear

PLAIN = f"{SUBJECTS}.plain:PlainLinear"


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> Certified:
    """A class that is certified, from Python."""
    options = ["--max-examples", "3", "--write-regressions", str(tmp_path_factory.mktemp("regressions"))]
    return certify(PlainLinear, options=options)


@pytest.fixture(scope="module")
def issued(certified: Certified) -> str:
    """The text of its green certificate."""
    return json.dumps(certified.certificate, indent=1, ensure_ascii=False) + "\n"


@pytest.fixture
def file(tmp_path: Path, issued: str) -> Path:
    """A copy to tamper with."""
    copy = tmp_path / "plain.json"
    copy.write_text(issued, encoding="utf-8")
    return copy


def rewritten(file: Path, document: dict) -> None:
    """Writes ``document`` with a hash that fits."""
    document["sha256"] = digest(document)
    file.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def test_the_result_has_the_screen_and_every_clauses_verdict(certified: Certified) -> None:
    assert f"{PLAIN}: certified" in str(certified)
    assert list(certified.verdicts) == list(CONTRACT)
    assert set(certified.verdicts.values()) == {"pass", "not applicable"}


def test_a_fresh_one_is_verified(file: Path) -> None:
    document = verify(file)
    assert [subject["class"] for subject in document["subjects"]] == [PLAIN]


def test_it_has_every_clause_and_what_it_holds_for(file: Path) -> None:
    document = verify(file)
    (subject,) = document["subjects"]
    assert [clause["id"] for clause in subject["clauses"]] == list(CONTRACT)
    assert {"torch", "vllm", "triton", "python", "gpu"} <= set(document["environment"])
    assert document["run"]["seed"] == 0
    assert subject["detection"]["exact_cases"] > 0
    assert 0 < subject["detection"]["smallest_relative"] < 1e-3


def test_it_has_the_version_of_the_source_that_ran_though_nothing_is_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing(package: str) -> str:
        raise PackageNotFoundError(package)

    monkeypatch.setattr(environment, "version", missing)
    found = environment.versions(reference())
    assert found["hypothesis"] == "none"
    assert found["lora-compat"] == __version__


def test_any_one_byte_edited_is_refused(file: Path, issued: str) -> None:
    text = issued.encode()
    for place in range(0, len(text), max(1, len(text) // 60)):
        other = b"0" if text[place : place + 1] != b"0" else b"1"
        file.write_bytes(text[:place] + other + text[place + 1 :])
        with pytest.raises(CertificateError):
            verify(file)


def test_a_space_more_is_refused(file: Path, issued: str) -> None:
    file.write_text(issued.replace('": ', '":  ', 1), encoding="utf-8")
    with pytest.raises(CertificateError, match="altered"):
        verify(file)


def test_one_that_lacks_a_clause_is_refused_though_its_hash_fits(file: Path) -> None:
    document = json.loads(file.read_text(encoding="utf-8"))
    document["subjects"][0]["clauses"] = [one for one in document["subjects"][0]["clauses"] if one["id"] != "MATH-3"]
    rewritten(file, document)
    with pytest.raises(CertificateError, match=r"incomplete.*MATH-3"):
        verify(file)


@pytest.mark.parametrize("verdict", ["fail", "refused", "not exercised", "error"])
def test_one_with_a_must_that_is_not_green_is_refused_though_its_hash_fits(file: Path, verdict: str) -> None:
    document = json.loads(file.read_text(encoding="utf-8"))
    clause = next(one for one in document["subjects"][0]["clauses"] if one["id"] == "MATH-1")
    clause["verdict"] = verdict
    rewritten(file, document)
    with pytest.raises(CertificateError, match=re.escape(f"MATH-1 ({verdict})")):
        verify(file)


def test_one_of_a_class_that_has_changed_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.certification.subjects import plain

    def forward(self, input_):
        return super(plain.PlainLinear, self).forward(input_)

    changed = type("PlainLinear", (plain.PlainLinear.__mro__[1],), {"forward": forward, "__module__": plain.__name__})
    monkeypatch.setattr(plain, "PlainLinear", changed)
    with pytest.raises(CertificateError, match="has changed since it was certified"):
        verify(file)


def test_one_that_is_cut_short_or_of_something_else_is_refused(file: Path, issued: str) -> None:
    for text in (issued[:-40], "", "[]", "{}", "null"):
        file.write_text(text, encoding="utf-8")
        with pytest.raises(CertificateError):
            verify(file)


def test_the_command_says_so_and_exits_with_one(file: Path) -> None:
    code, screen = lora_compat("verify", str(file))
    assert code == 0
    assert screen.startswith(f"{PLAIN}: certified, ")
    file.write_text(file.read_text(encoding="utf-8").replace('"seed": 0', '"seed": 1'), encoding="utf-8")
    code, screen = lora_compat("verify", str(file))
    assert code == 1
    assert screen.startswith("refused: ")
    assert "was altered" in screen
