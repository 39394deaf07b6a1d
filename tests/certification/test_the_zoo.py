"""The zoo's pages: a table of all classes, and a page for each that can be reproduced with nothing but vLLM."""

from __future__ import annotations

import re

from benchmarks.zoo.__main__ import page
from benchmarks.zoo.findings import shown_by
from conformance.judging.facts import Aspect, Difference, Raised, Unwrapped
from conformance.subjects.zoo_index import RECIPES
from tests.suite import ROOT

FOLDER = ROOT / "docs" / "results" / "zoo-0.33.0"
PAGE = FOLDER.with_name("zoo-0.33.0.md").read_text(encoding="utf-8")


def linked() -> list[str]:
    """The classes' own pages, as the table links to them."""
    return re.findall(r"\]\(zoo-0\.33\.0/([\w-]+\.md)\)", PAGE)


def test_every_class_of_the_table_has_a_page_and_every_page_a_class() -> None:
    written = {path.name for path in FOLDER.glob("*.md")} - {"head.md"}
    assert len(linked()) == 12
    assert set(linked()) == written


def test_every_class_has_a_verdict_from_both_and_a_reproduction() -> None:
    for name in linked():
        text = (FOLDER / name).read_text(encoding="utf-8")
        assert "Wrapped by vllm 0.33.0: **" in text
        assert "Wrapped by reference" in text
        assert re.search(r'\$ python reproduce\.py "[^"]+"\n    \S.* TP 1: .* TP 2: ', text), name


def test_every_script_that_is_said_to_show_a_failure_is_there() -> None:
    for name in linked():
        for script in re.findall(r"\]\(([^)]+\.py)\)", (FOLDER / name).read_text(encoding="utf-8")):
            assert (FOLDER / script).is_file(), f"{name}: {script}"


def test_what_no_script_shows_is_not_said_to_be_shown() -> None:
    assert shown_by("not-wrapped", Unwrapped("qkv", subclass=True)).endswith("unwrapped.py))")
    assert shown_by("raised", Raised("ValueError", "'BareWrapper(")) == ""
    assert shown_by("delta-misplaced", Difference(Aspect.VALUE, 1.0, 2.0, 0, (0, 0))) == ""


def test_a_class_that_is_served_in_part_says_so_in_the_table() -> None:
    clause = {"id": "MATH-5", "level": "MUST", "verdict": "pass", "counts": {"pass": 1, "refused": 5}}
    subject = {"class": "a.b:C", "family": "row", "verdict": "certified in part", "clauses": [clause]}
    document = {"environment": {"identity.implementation": "mine"}, "subjects": [subject]}
    last = page([document], "", "zoo").splitlines()[-1]
    assert last.endswith("| row | certified in part: MATH-5 refused in 5 of 6 |")


def test_no_class_is_without_a_verdict_for_lack_of_a_recipe() -> None:
    texts = {name: (FOLDER / name).read_text(encoding="utf-8") for name in linked()}
    assert not [name for name, text in texts.items() if "needs a recipe" in text]
    assert all(any(f"`{path}`" in text for text in texts.values()) for path in RECIPES)
