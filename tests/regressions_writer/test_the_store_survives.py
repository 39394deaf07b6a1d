"""The store loads whatever happens to its writers, and never touches what it cannot read."""

from __future__ import annotations

import json
import multiprocessing
import signal
import time
from multiprocessing.context import ForkProcess
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from conformance.judging.facts import Remark, Sighting
from conformance.regressions.entries import StoredFailure
from conformance.regressions.store import Store
from conformance.test_files.layout import CannotWrite
from conformance.test_files.lora_compat_dialect import LoraCompat
from conformance.test_files.writer import write
from strategies.cases import Case
from strategies.codec import to_dict
from tests.regressions_writer.examples import entry_of

FORKS = multiprocessing.get_context("fork")  # which need not import torch again


def writes(directory: Path, first: int, last: int, begun: Event) -> None:
    """What a writer does."""
    store = Store(directory)
    begun.set()
    for seed in range(first, last):
        entry = entry_of("MATH-1", "raised", Case(seed=seed % 50))
        for clause in ("MATH-1", "MATH-2"):
            store.add(entry.case, entry.shown, StoredFailure(clause, "raised", "x" * 2_000, str(first)))


def writer(directory: Path, first: int, last: int) -> ForkProcess:
    """A process that has begun to write."""
    begun = FORKS.Event()
    process = FORKS.Process(target=writes, args=(directory, first, last, begun))
    process.start()
    assert begun.wait(timeout=240)
    return process


def test_a_failure_comes_back_as_it_was_stored(tmp_path: Path) -> None:
    entry = entry_of("MATH-1", "delta-dropped", Case(seed=7))
    Store(tmp_path).add(entry.case, entry.shown, entry.failures[0])
    loaded, problems = Store(tmp_path).load()
    assert (loaded, problems) == ([entry], [])
    assert loaded[0].spec() == Case(seed=7)


def test_the_id_depends_on_the_case_alone() -> None:
    one, other = (
        entry_of("MATH-1", "delta-dropped", Case()),
        entry_of("WRAP-4", "raised", Case(), Sighting(Remark("other words"))),
    )
    assert one.id == other.id != entry_of("MATH-1", "delta-dropped", Case(seed=1)).id


def test_one_file_keeps_every_clause_that_a_case_breaks(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for clause in ("MATH-1", "MATH-9", "MATH-1"):
        entry = entry_of(clause, "bias-dropped", Case())
        store.add(entry.case, entry.shown, entry.failures[0])
    (loaded,), _ = store.load()
    assert [failure.clause for failure in loaded.failures] == ["MATH-9", "MATH-1"]
    store.discard(loaded.case, loaded.failures[0].key)
    assert [failure.clause for failure in store.load()[0][0].failures] == ["MATH-1"]
    store.discard(loaded.case, loaded.failures[1].key)
    assert store.load() == ([], [])


def test_two_writers_lose_nothing_of_each_other(tmp_path: Path) -> None:
    both = [writer(tmp_path, 0, 8), writer(tmp_path, 50, 58)]
    for one in both:
        one.join(timeout=240)
    assert [one.exitcode for one in both] == [0, 0]
    entries, problems = Store(tmp_path).load()
    assert (len(entries), problems) == (8, [])
    assert {len(entry.failures) for entry in entries} == {4}


@pytest.mark.parametrize("patience", [0.0, 0.013, 0.05, 0.11])
def test_a_writer_killed_at_any_moment_leaves_a_store_that_loads(tmp_path: Path, patience: float) -> None:
    process = writer(tmp_path, 0, 100_000)
    time.sleep(patience)  # whenever it falls, the claim holds
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    store = Store(tmp_path)
    entries, problems = store.load()
    assert problems == []
    entry = entry_of("MATH-1", "raised", Case(seed=1000))
    store.add(entry.case, entry.shown, entry.failures[0])  # the dead hold no lock
    assert len(store.load()[0]) == len(entries) + 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data | {"format_version": 3}, "format_version is 3, this release reads 2"),
        (lambda data: data | {"case": data["case"] | {"seed": 8}}, "edited by hand, its case has the id"),
        (lambda data: data | {"failures": [{"clause": "MATH-1"}]}, "a field is missing or unknown"),
        (lambda data: ["no entry at all"], "it is no stored failure"),
    ],
    ids=["newer", "edited", "incomplete", "foreign"],
)
def test_what_cannot_be_read_is_reported_and_left_alone(tmp_path: Path, change, said: str) -> None:
    entry = entry_of("MATH-1", "delta-dropped", Case(seed=7))
    store = Store(tmp_path)
    store.add(entry.case, entry.shown, entry.failures[0])
    path = tmp_path / "cases" / f"{entry.id}.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    before = path.read_bytes()
    entries, (problem,) = store.load()
    assert entries == []
    assert said in str(problem)
    assert str(path) in str(problem)
    with pytest.raises(ValueError, match=str(path)):
        store.add(entry.case, entry.shown, StoredFailure("MATH-2", "raised", "", "reference"))
    assert path.read_bytes() == before


def test_half_a_file_is_reported_and_left_alone(tmp_path: Path) -> None:
    entry = entry_of("MATH-1", "delta-dropped", Case())
    store = Store(tmp_path)
    store.add(entry.case, entry.shown, entry.failures[0])
    path = tmp_path / "cases" / f"{entry.id}.json"
    path.write_text(path.read_text()[:100])
    assert "cannot be read" in str(store.load()[1][0])
    assert path.stat().st_size == 100


def test_a_case_of_a_newer_vocabulary_is_told_apart() -> None:
    entry = entry_of("MATH-1", "delta-dropped", Case())
    newer = type(entry)({**entry.case, "format_version": 99}, entry.shown, entry.failures)
    with pytest.raises(ValueError, match="format_version is 99"):
        newer.spec()
    assert to_dict(Case())["format_version"] == 1


def test_a_failure_of_an_older_release_loads_and_says_that_it_must_be_replayed(tmp_path: Path) -> None:
    entry = entry_of("MATH-1", "delta-dropped", Case(seed=7))
    store = Store(tmp_path)
    store.add(entry.case, entry.shown, entry.failures[0])
    path = tmp_path / "cases" / f"{entry.id}.json"
    data = json.loads(path.read_text())
    for failure in data["failures"]:
        del failure["seen"]
    path.write_text(json.dumps(data | {"format_version": 1}))
    (loaded,), problems = store.load()
    assert (problems, loaded.failures[0].message) == ([], entry.failures[0].message)
    with pytest.raises(CannotWrite, match="replay it"):
        write(loaded, loaded.failures[0], LoraCompat(), "none.")
