"""A run with failures leaves their cases and test files, finds them again first, and respects whoever edits them."""

from __future__ import annotations

import html
import importlib.metadata
import re
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

import lora_compat
from conformance.regressions.entries import Entry
from conformance.regressions.proof import FileRun
from conformance.regressions.store import Store
from conformance.test_files import handover
from conformance.test_files.handover import Handover
from strategies.cases import Case
from tests.regressions_writer.examples import entry_of
from tests.suite import run_suite, shown

# The seed draws nothing for many ranks, which takes most of a search.
SELECTED = ("--profile", "quick", "--conformance-seed", "1", "-k", "MATH-9")


@dataclass(frozen=True)
class Runs:
    """What two runs on an implementation with a bug said, and left in a folder, after one on the reference."""

    folder: Path
    entries: list[Entry]
    causes: set[str]
    files: list[str]
    first: str
    second: str
    report: str


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """The first one on two workers, with a report; before the second one somebody edits a file."""
    folder, elsewhere = tmp_path_factory.mktemp("store"), tmp_path_factory.mktemp("results")
    before, page = elsewhere / "before.json", elsewhere / "run.html"
    run_suite(*SELECTED, "--results", str(before), select="test_dense_math.py")
    broken = (*SELECTED, "--impl", "tests.implementations.broken:DropsTheBias", "--write-regressions", str(folder))
    reported = ("-n", "2", "--report", str(page), "--compare", str(before))
    first = shown(run_suite(*broken, *reported, select="test_dense_math.py"))
    assert f"report: {page}" in first
    entries, problems = Store(folder).load()
    assert problems == []
    files = sorted(path.name for path in folder.glob("test_math_9_*.py"))
    edited = folder / files[0]
    edited.write_text(edited.read_text() + "# mine\n")
    (folder / "cases" / "newer.json").write_text('{"format_version": 3}')
    ended = run_suite(*broken, "--max-examples", "1", select="test_dense_math.py")
    assert ended.code == 1
    causes = {failure.cause for entry in entries for failure in entry.failures}
    return Runs(folder, entries, causes, files, first, shown(ended), html.unescape(page.read_text(encoding="utf-8")))


def test_a_wrong_number_is_named_and_shrunk(runs: Runs) -> None:
    assert "MATH-9    MUST    fail" in runs.second
    assert "bias-dropped: rank 0: out0[0, 0]=" in runs.second
    assert "Case(layer=LayerSpec(bias=True)" in runs.second


def test_shards_that_find_the_same_write_one_file(runs: Runs) -> None:
    assert len(runs.files) == 2 * len(runs.causes), runs.first
    assert all(f"wrote {runs.folder / name}" in runs.first for name in runs.files), runs.first


def test_the_next_run_finds_it_first_and_respects_who_edits_it(runs: Runs) -> None:
    edited = runs.folder / runs.files[0]
    assert [entry.id for entry in Store(runs.folder).load()[0]] == [entry.id for entry in runs.entries]
    assert "format_version is 3, this release reads 2" in runs.second
    assert f"left alone {edited}: it was edited by hand" in runs.second
    others = [name for name in runs.files if name != edited.name]
    assert all(f"{runs.folder / name}: " in runs.second for name in others), runs.second
    assert runs.second.count("it was edited by hand") == 1, "what nobody edited is written again, or kept"
    assert edited.read_text().endswith("# mine\n")
    assert (runs.folder / "cases" / "newer.json").exists()


def test_the_report_has_its_test_files_and_what_changed(runs: Runs) -> None:
    assert '<a href="#MATH-9">MATH-9</a>: pass, now fail' in runs.report
    assert "New failures: " in runs.report
    assert set(runs.files) & set(re.findall(r"test_math_\w+\.py", runs.report))
    assert "from lora_compat" in runs.report, "the file that stands alone, not the one that needs the suite"


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
