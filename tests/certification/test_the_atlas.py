"""The pages of a run over all architectures say what its results say."""

from __future__ import annotations

import datetime
from collections import Counter
from pathlib import Path

import pytest

from conformance.certification.atlas import table as table_module
from conformance.certification.atlas.differences import Differences
from conformance.certification.atlas.pages import page
from conformance.certification.atlas.results import Links, read
from conformance.certification.atlas.table import Table
from conformance.certification.baseline import Baseline, Entry
from conformance.contract import MODEL_CLAUSES
from conformance.judging.verdicts import ClauseResult, Failure
from conformance.subjects.models.types import ModelTarget, Naming
from conformance.suite.reporting import write_json
from strategies.models.adapters import Targetable

SCRIPT = "docs/findings/46_experts_renamed_by_transformers.py"
FAILED = Failure(
    "MODEL-1", "key-vanished", "the router: /tmp/lora-compat-x1/3/base is not", {}, "ModelCase(target='A')"
)
KNOWN = Baseline(Path(), (Entry("A", "MODEL-1", "key-vanished", SCRIPT, datetime.date.max),))
RESULTS = {
    "A": {
        "MODEL-1": ClauseResult("MODEL-1", Counter({"fail": 1, "pass": 2}), failures=[FAILED], target="A"),
        "MODEL-2": ClauseResult("MODEL-2", Counter({"pass": 3}), target="A"),
    },
    "B": {
        "MODEL-1": ClauseResult(
            "MODEL-1",
            Counter({"pass": 1, "refused": 2}),
            Counter({"refused: by name (UnknownModulesError): conv": 2}),
            target="B",
        )
    },
    "C": {
        "MODEL-1": ClauseResult(
            "MODEL-1", Counter({"not applicable": 3}), Counter({"not applicable: no weights": 3}), target="C"
        )
    },
}


@pytest.fixture(autouse=True)
def offered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every model has one kind of module: to make one, transformers would have to be imported."""
    monkeypatch.setattr(table_module, "offer_of", lambda target, choices: Targetable(("q_proj",)))


def target(name: str) -> ModelTarget:
    return ModelTarget(name, "llama", name, "LlamaForCausalLM", Naming.ARCHITECTURE)


def table() -> str:
    targets = {name: target(name) for name in "ABCD"}
    return Table("Models", RESULTS, targets, {"E": "a draft model"}, Links(KNOWN), ["A"]).text()


def test_kept_results_are_read_back(tmp_path: Path) -> None:
    for name, of_name in RESULTS.items():
        for clause, result in of_name.items():
            write_json(tmp_path / f"{name}-{clause}.json", result.to_dict())
    assert read(tmp_path) == RESULTS


def test_shards_of_a_clause_are_added_up(tmp_path: Path) -> None:
    shards = [RESULTS["A"]["MODEL-1"], ClauseResult("MODEL-1", Counter({"pass": 4}), target="A")]
    for number, shard in enumerate(shards):
        write_json(tmp_path / f"A-MODEL-1-{number}.json", shard.to_dict())
    found = read(tmp_path)["A"]["MODEL-1"]
    assert (found.counts, found.failures) == ({"fail": 1, "pass": 6}, [FAILED])


def test_the_head_counts_every_architecture_once() -> None:
    head = table().splitlines()[2]
    assert head.startswith("5 architectures")
    assert "2 were judged, in 9 cases: 1 break a clause" in head
    assert "1 break none, of which 1 refuse some adapters by name; 0 more end in an error" in head
    assert "2 are not applicable, for the reasons at the end, and 1 were not reached" in head


def test_a_row_has_verdicts_counts_and_the_cause() -> None:
    row = next(line for line in table().splitlines() if line.startswith("| [A]"))
    assert row.startswith("| [A](models/A.md) | q_proj | ")
    verdicts = " | ".join(("**fail**", "pass", *["not run"] * (len(MODEL_CLAUSES) - 2)))
    assert row.endswith(f"| {verdicts} | 5 | 0 | [46](../findings/46_experts_renamed_by_transformers.py) |")


def test_refusals_are_counted_by_their_class_and_explained() -> None:
    row = next(line for line in table().splitlines() if line.startswith("| UnknownModulesError"))
    assert row.startswith(
        "| UnknownModulesError | 2 | 1 | An adapter with tensors for modules that carry no LoRA here"
    )


def test_what_was_not_judged_is_listed_with_its_reason() -> None:
    listed = table().partition("## Not applicable, or not reached")[2]
    assert "- a draft model (1): E" in listed
    assert "- no weights (1): C" in listed
    assert "- not reached in this run (1): D" in listed


def test_the_page_of_a_failure_names_cause_case_and_command_and_no_folder_of_a_machine() -> None:
    text = page("A", RESULTS["A"], Links(KNOWN, "../.."), "vllm")
    assert "## MODEL-1: *key-vanished*" in text
    assert "Seen: the router: CHECKPOINT is not" in text
    assert "(finding [46](../../findings/46_experts_renamed_by_transformers.py))" in text
    assert "    ModelCase(target='A')" in text
    assert f"    python {SCRIPT}" in text
    assert "    lora-compat certify-model A --impl vllm" in text
    assert "/tmp" not in text


def test_an_earlier_run_is_compared_architecture_by_architecture() -> None:
    passed = ClauseResult("MODEL-1", Counter({"pass": 3}), target="A")
    earlier = {"A": {**RESULTS["A"], "MODEL-1": passed}, "B": RESULTS["B"], "Old": {"MODEL-1": passed}}
    targets = {name: target(name) for name in "AB"}
    text = Table("Models", RESULTS, targets, {}, Links(KNOWN), [], Differences(Path(), "vLLM 0.32.0", earlier)).text()
    section = text.partition("## Changed since vLLM 0.32.0\n\n")[2].partition("\n## ")[0]
    assert section.splitlines() == [
        "2 architectures were judged by both runs: 1 alike, 1 not.",
        "",
        "| architecture | verdicts | anomalies here alone | anomalies there alone |",
        "|---|---|---|---|",
        "| A | MODEL-1 pass → fail | MODEL-1 *key-vanished* |  |",
        "",
        "Judged there alone (1): Old.",
    ]
