"""The report is one page that needs nothing else, shows what was found, and says it without colour."""

from __future__ import annotations

import re

import pytest

from conformance.certification.certificate import certificate
from conformance.certification.outcome import Outcome, complete
from conformance.certification.probing import Prober
from conformance.certification.report import error_map, page, verdict_map
from conformance.certification.subjects import find
from conformance.contract import CONTRACT
from conformance.engines.threads import ThreadsEngine
from conformance.implementations.reference import ReferenceImplementation
from conformance.judging.measuring import Cell, Evidence
from conformance.judging.verdicts import ClauseResult, Failure
from conformance.subjects.subject import Subject
from strategies.cases import Case, LayerSpec
from strategies.codec import to_dict
from tests.certification.screens import SUBJECTS

PATH = f"{SUBJECTS}.plain:PlainLinear"
SHOWN = Case(layer=LayerSpec(bias=True), tokens=(0, -1))
CASE = {"kind": "case", **to_dict(SHOWN)}


@pytest.fixture(scope="module")
def html() -> str:
    """The page of a class with one failure."""
    (found,) = find(PATH)
    target = Prober(found, Subject(ReferenceImplementation(), ThreadsEngine())).target()
    failed = ClauseResult("MATH-1", target=PATH)
    failed.counts["pass"] = 3
    failed.failures = [Failure("MATH-1", "delta-dropped", "out0[0]=<b>1</b>, but should be 2", CASE, repr(SHOWN))]
    failed.evidence = Evidence(exact=3, cells={(1, 4): Cell(3, 0, 0.0), (2, 8): Cell(0, 1, float("inf"))})
    outcome = Outcome(PATH, target, results=complete([failed], PATH))
    run = {"seed": 0, "profile": "quick", "cases_per_clause": 20, "engine": "threads"}
    return page([outcome], certificate([outcome], run, {"torch": "2", "identity.implementation": "reference"}))


def test_nothing_is_fetched(html: str) -> None:
    assert not re.findall(r"(?:src|href)=[\"'](?!#)", html)
    assert "url(" not in html
    assert "@import" not in html
    assert "<script" not in html


def test_what_was_seen_is_escaped(html: str) -> None:
    assert "out0[0]=&lt;b&gt;1&lt;/b&gt;, but should be 2" in html


def test_every_clause_of_the_contract_has_its_sentence_and_every_link_a_place(html: str) -> None:
    for clause in CONTRACT:
        assert f'id="{clause}"' in html
    places = set(re.findall(r'id="([^"]+)"', html))
    assert set(re.findall(r'href="#([^"]+)"', html)) <= places


def test_the_counterexample_comes_with_a_test_that_can_be_compiled(html: str) -> None:
    (source,) = re.findall(r"<summary>Regression test</summary>\s*<pre[^>]*><code>(.*?)</code></pre>", html, re.DOTALL)
    import html as escapes

    text = escapes.unescape(source)
    compile(text, "test_regression.py", "exec")
    assert "def test_math_1_delta_dropped():" in text
    assert "bias=True" in text


def test_the_source_of_the_class_is_in_it(html: str) -> None:
    assert "class PlainLinear(QKVParallelLinear):" in html


def test_heat_maps_say_in_letters_what_they_say_in_colour() -> None:
    evidence = Evidence(cells={(1, 4): Cell(3, 0, 0.25), (2, 8): Cell(1, 3, 7.0)})
    verdicts, errors = verdict_map(evidence), error_map(evidence)
    assert [[square.text for square in row] for _, row in verdicts.rows] == [["✓ 3/3", "·"], ["·", "✗ 1/4"]]
    assert [[square.text for square in row] for _, row in errors.rows] == [["0.25", "·"], ["·", "✗ 7"]]
