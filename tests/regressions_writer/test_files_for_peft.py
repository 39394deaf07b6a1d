"""The files for PEFT pass there, fail where a bug is planted in PEFT, and are red for what is wrong in it."""

from __future__ import annotations

import ast
from dataclasses import replace

import pytest

from conformance.regressions.entries import Entry
from conformance.test_files.layout import CannotWrite
from conformance.test_files.writer import PEFT, dialects_of, write
from strategies.cases import AdapterSpec, Case, LayerSpec
from strategies.codec import Spec
from strategies.forwards import Forward
from strategies.programs import Program
from strategies.subclasses import SubclassSpec
from tests.mutants import peft_planted as bugs
from tests.mutants.planting import Mutant
from tests.regressions_writer.examples import entry_of
from tests.regressions_writer.test_files_for_plain_vllm import run_test

LAYER = Case(layer=LayerSpec(input_size=2, output_sizes=(2,), return_bias=False))
TWO = replace(LAYER, max_loras=2, adapters=(AdapterSpec(rank=4, alpha=2.0), AdapterSpec(slot=1, rank=4)), seed=3)
SCALED = replace(LAYER, subclass=SubclassSpec(depth=1, forward=Forward.SCALED))
PLANTED = (
    ("MATH-12", replace(LAYER, adapters=(AdapterSpec(alpha=2.0),)), bugs.scaling_is_always_one),
    ("MATH-2", replace(TWO, tokens=(0, 0, 1)), bugs.a_mixed_batch_is_served_in_reverse),
    ("MATH-3", replace(TWO, tokens=(1, -1)), bugs.samples_without_an_adapter_get_their_neighbours),
)
RED = (
    ("MATH-1", "delta-outside-forward", SCALED),
    ("WRAP-7", "weight-stolen", LAYER),
)


def entry_of_peft(clause: str, anomaly: str, case: Spec, impl: str = "peft") -> Entry:
    entry = entry_of(clause, anomaly, case)
    (failure,) = entry.failures
    identity = {"implementation": "peft 0.21.2", "layers": "torch 2.14", "torch": "2.14"}
    return replace(entry, failures=(replace(failure, impl=impl, identity=identity),))


def text_of(clause: str, anomaly: str, case: Spec) -> str:
    entry = entry_of_peft(clause, anomaly, case)
    return write(entry, entry.failures[0], PEFT, "fails somewhere.")


@pytest.mark.parametrize(("clause", "case", "mutant"), PLANTED, ids=[clause for clause, _, _ in PLANTED])
def test_the_file_passes_on_peft_and_fails_where_a_bug_is_planted_in_it(
    clause: str, case: Case, mutant: Mutant
) -> None:
    text = text_of(clause, "unexplained", case)
    run_test(text)
    with mutant.patch(), pytest.raises(AssertionError):
        run_test(text)


@pytest.mark.parametrize(("clause", "anomaly", "case"), RED, ids=[clause for clause, _, _ in RED])
def test_the_file_is_red_for_what_peft_gets_wrong(clause: str, anomaly: str, case: Case) -> None:
    with pytest.raises(AssertionError):
        run_test(text_of(clause, anomaly, case))


def test_a_file_imports_torch_and_peft_alone() -> None:
    tree = ast.parse(text_of("MATH-1", "delta-outside-forward", SCALED))
    named = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    named |= {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    assert {str(name).partition(".")[0] for name in named} == {"torch", "peft", "typing"}


def test_what_is_about_more_than_a_layer_has_no_file() -> None:
    with pytest.raises(CannotWrite, match="replay"):
        text_of("LIFE-3", "state-lost", Program())


def test_another_implementation_on_torchs_layers_has_no_file() -> None:
    entry = entry_of_peft("MATH-1", "unexplained", LAYER, impl="tiny_lora:TinyLoRA")
    (failure,) = entry.failures
    assert dialects_of(failure) == (PEFT,)
    with pytest.raises(CannotWrite, match="PEFT alone"):
        write(entry, failure, PEFT, "fails somewhere.")
