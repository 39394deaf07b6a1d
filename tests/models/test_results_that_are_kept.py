"""What ``--resume`` keeps is taken by a run of the same state of the code, and by no other one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from conformance.certification.apart import Apart
from conformance.certification.environment import folders_hash, suite_hash
from conformance.certification.kept_results import KeptResults
from conformance.judging.verdicts import Verdict
from tests.models.deeds import Deed, ask

STATE = {"vllm": "0.33.0", "peft": "0.21.2", "suite": "one"}


def verdict(folder: Path, state: Mapping[str, str], deed: Deed, path: str = "kept") -> Verdict:
    apart = Apart(60.0, KeptResults(folder, "vllm", state))
    result = ask(apart, path, deed)
    apart.stop()
    return result.verdict


def notes(folder: Path, state: Mapping[str, str]) -> list[str]:
    return KeptResults(folder, "vllm", state).notes()


def die() -> None:
    os._exit(3)


def test_what_is_kept_is_not_run_again(tmp_path: Path) -> None:
    assert verdict(tmp_path, STATE, lambda: None) is Verdict.PASS
    assert verdict(tmp_path, STATE, die) is Verdict.PASS
    assert notes(tmp_path, STATE) == []


def test_an_error_is_not_kept(tmp_path: Path) -> None:
    assert verdict(tmp_path, STATE, die) is Verdict.ERROR
    assert verdict(tmp_path, STATE, lambda: None) is Verdict.PASS


@pytest.mark.parametrize("name", sorted(STATE))
def test_what_was_kept_of_another_state_is_run_again_and_that_is_said(tmp_path: Path, name: str) -> None:
    assert verdict(tmp_path, STATE, lambda: None) is Verdict.PASS
    other = STATE | {name: "another"}
    assert notes(tmp_path, other) == [
        f"certify: 1 of 1 results in {tmp_path} are of another state ({name}); what is asked of them is run again"
    ]
    assert verdict(tmp_path, other, die) is Verdict.ERROR
    assert verdict(tmp_path, other, lambda: None) is Verdict.PASS
    assert verdict(tmp_path, other, die) is Verdict.PASS  # kept in the other one's place
    assert notes(tmp_path, other) == []


def test_what_was_kept_before_states_were_is_run_again(tmp_path: Path) -> None:
    assert verdict(tmp_path, STATE, lambda: None) is Verdict.PASS
    (file,) = tmp_path.glob("*.json")
    file.write_text(file.read_text(encoding="utf-8").replace('"state"', '"other"'), encoding="utf-8")
    assert "another state (none is told)" in notes(tmp_path, STATE)[0]
    assert verdict(tmp_path, STATE, die) is Verdict.ERROR


def test_the_suite_is_another_one_with_any_source_changed_renamed_or_added(tmp_path: Path) -> None:
    folder = tmp_path / "suite" / "inner"
    folder.mkdir(parents=True)
    (folder / "one.py").write_text("1\n", encoding="utf-8")
    seen = {folders_hash(tmp_path / "suite")}
    (folder / "one.py").write_text("2\n", encoding="utf-8")
    seen.add(folders_hash(tmp_path / "suite"))
    (folder / "one.py").rename(folder / "two.py")
    seen.add(folders_hash(tmp_path / "suite"))
    (folder / "three.py").touch()
    seen.add(folders_hash(tmp_path / "suite"))
    assert len(seen) == 4
    assert suite_hash() == suite_hash()
