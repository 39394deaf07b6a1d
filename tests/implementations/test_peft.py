"""PEFT as an implementation under test: what cases become, what is not applicable, and the findings about it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings

from benchmarks.power.hunting import properties_of
from conformance.contract import CONTRACT
from conformance.engines.threads import ThreadsEngine
from conformance.implementations.discovery import implementation_named
from conformance.implementations.peft import PeftImplementation
from conformance.implementations.peft.fitting import PEFT_HAS_NO, as_peft_serves_it
from conformance.implementations.torch_fitting import as_torch_has_it
from conformance.regressions.fresh import run_module
from conformance.subjects.subject import Subject
from conformance.suite.budget import Budget
from conformance.suite.checking import ClauseRun
from strategies.cases import Case, Layout
from strategies.codec import Spec
from strategies.drawing import cases
from strategies.program_drawing import frames
from strategies.programs import Program
from strategies.validity import is_valid
from tests.suite import ROOT, SECONDS, outside_of_pytest

BASELINE = ROOT / "baselines" / "peft-0.21.2.json"
JUDGED = ("WRAP-4", "WRAP-7", "MATH-2", "MATH-3", "MATH-14", "MATH-16", "MATH-18", "LIFE-1")
FINDINGS = ROOT / "docs" / "findings" / "peft"
SCRIPTS = sorted(FINDINGS.glob("[0-9]*.py"))
RUN_ON = ("0.21.2",)
CASES = 25
QUIETLY = settings(max_examples=60, deadline=None, database=None, suppress_health_check=list(HealthCheck))


def fitted(spec: Spec) -> Spec:
    return as_peft_serves_it(as_torch_has_it(spec))


@QUIETLY
@given(cases(layouts=tuple(Layout)))
def test_any_case_becomes_one_of_torchs_and_stays_it(case: Case) -> None:
    found = fitted(case)
    assert isinstance(found, Case)
    assert fitted(found) == found
    assert is_valid(found)
    assert (found.tp_size, found.layer.return_bias, found.packed) == (1, False, ())
    assert [one.scaling for one in found.adapters] == [one.scaling for one in case.adapters]


@QUIETLY
@given(frames())
def test_any_program_has_a_place_for_every_adapter(program: Program) -> None:
    found = fitted(program)
    assert isinstance(found, Program)
    assert fitted(found) == found
    assert found.max_loras == found.max_adapters == len(program.adapters)


@pytest.mark.parametrize("of", [lambda name: name, str.upper], ids=["as it is", "misspelt"])
def test_it_is_found_by_its_name(of: Callable[[str], str]) -> None:
    if of("peft") != "peft":
        with pytest.raises(pytest.UsageError, match="peft"):
            implementation_named(of("peft"))
        return
    assert implementation_named("peft").identity()["implementation"] == f"peft {version('peft')}"


def test_the_page_says_what_is_not_applicable_and_why() -> None:
    page = (ROOT / "docs" / "peft-judged.md").read_text()
    rows = re.findall(r"^\| ((?:[A-Z]+-\d+(?:, )?)+) \| (.+) \|$", page, re.MULTILINE)
    assert {clause: why for clauses, why in rows for clause in clauses.split(", ")} == PEFT_HAS_NO
    assert {*PEFT_HAS_NO} <= {*CONTRACT}


def test_every_known_failure_links_to_a_finding_about_its_clause() -> None:
    for known in json.loads(BASELINE.read_text())["known_failures"]:
        assert known["clause"] not in PEFT_HAS_NO
        assert (ROOT / known["link"]).parent == FINDINGS


@pytest.fixture
def subject() -> Iterator[Subject]:
    torch.set_grad_enabled(False)
    yield Subject(PeftImplementation(), ThreadsEngine())
    torch.set_grad_enabled(True)


@pytest.mark.parametrize("clause", JUDGED)
def test_what_a_clause_fails_of_is_listed(clause: str, subject: Subject) -> None:
    known = {(one["clause"], one["anomaly"]) for one in json.loads(BASELINE.read_text())["known_failures"]}
    for test in properties_of(clause):
        result = ClauseRun(subject, Budget(CASES, seed=0)).check(clause, test.name, test.strategy, test.body)
        assert not result.errors
        assert {failure.key for failure in result.failures} <= known
        assert result.counts["pass"] > 0


@pytest.fixture(scope="module")
def results() -> dict[str, dict[str, str]]:
    run = run_module(["docs.findings.run_all", "peft", "--json"], ROOT, outside_of_pytest(), SECONDS)
    assert run.code == 0, run.stderr
    return {one["script"]: one for one in map(json.loads, run.stdout.splitlines())}


def named_in(script: Path) -> tuple[str, list[str]]:
    """The clause and the releases that a script's docstring names."""
    found = re.search(r"^Clause (.+?)\. Releases: (.+)\.$", script.read_text(), re.MULTILINE)
    assert found, f"{script.name} names no clause and releases"
    return found[1], found[2].split(", ")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_finding_shows_in_the_releases_it_names(script: Path, results: dict[str, dict[str, str]]) -> None:
    seen, installed = results[script.name], version("peft")
    accepted = {"PRESENT", "absent"}
    if installed in RUN_ON:
        accepted = {"PRESENT" if installed in named_in(script)[1] else "absent"}
    assert seen["verdict"] in accepted, f"{seen['verdict']} in PEFT {installed}:\n{seen['output']}"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_the_table_has_every_finding(script: Path) -> None:
    clause, releases = named_in(script)
    row = next(line for line in (FINDINGS / "README.md").read_text().splitlines() if f"]({script.name})" in line)
    assert f"| {clause} | {', '.join(releases)} |" in row
