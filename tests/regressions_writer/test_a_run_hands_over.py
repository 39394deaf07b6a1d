"""A run with failures leaves their cases and test files, finds them again first, and respects whoever edits them."""

from __future__ import annotations

import importlib.metadata
from dataclasses import replace
from pathlib import Path

import pytest

import lora_compat
from conformance.regressions.proof import FileRun
from conformance.regressions.store import Store
from conformance.test_files import handover
from conformance.test_files.handover import Handover
from strategies.cases import Case
from tests.regressions_writer.examples import entry_of
from tests.suite import run_suite, shown

BROKEN = ("--impl", "tests.implementations.broken:DropsTheBias", "--profile", "quick", "-k", "MATH-9")


def test_shards_that_find_the_same_write_one_file_and_the_next_run_knows_it(tmp_path: Path) -> None:
    where = ("--write-regressions", str(tmp_path))
    first = shown(run_suite(*BROKEN, *where, "-n", "2", select="test_dense_math.py"))
    entries, problems = Store(tmp_path).load()
    assert problems == []
    causes = [failure.cause for entry in entries for failure in entry.failures]
    files = sorted(path.name for path in tmp_path.glob("test_math_9_*.py"))
    assert len(files) == 2 * len(set(causes)), first
    assert all(f"wrote {tmp_path / name}" in first for name in files), first

    edited = tmp_path / files[0]
    edited.write_text(edited.read_text() + "# mine\n")
    (tmp_path / "cases" / "newer.json").write_text('{"format_version": 3}')
    second = shown(run_suite(*BROKEN, *where, select="test_dense_math.py"))
    assert [entry.id for entry in Store(tmp_path).load()[0]] == [entry.id for entry in entries], "found again first"
    assert "format_version is 3, this release reads 2" in second
    assert f"left alone {edited}: it was edited by hand" in second
    others = [name for name in files if name != edited.name]
    assert all(f"{tmp_path / name}: " in second for name in others), second
    assert second.count("it was edited by hand") == 1, "what nobody edited is written again, or kept"
    assert edited.read_text().endswith("# mine\n")
    assert (tmp_path / "cases" / "newer.json").exists()
    assert "bias-dropped" in second


def test_a_proof_names_the_version_of_the_source_where_the_package_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    monkeypatch.setattr(handover, "run_file", lambda path: FileRun(0, "1 passed"))
    entry = entry_of("MATH-1", "delta-dropped", Case())
    failure = replace(entry.failures[0], impl="vllm", identity={"implementation": "vllm 0.33.0"})
    first, *_ = Handover(Store(tmp_path)).failures([(entry, failure)])
    told = " ".join(first.path.read_text().split())
    assert f"Proof: passes on reference (lora_compat {lora_compat.__version__}) in a fresh process" in told
