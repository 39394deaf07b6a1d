"""The causes that one model fails of are told apart: each is found, made plain by itself, and kept apart."""

from __future__ import annotations

import pytest
from torch import nn

from conformance.judging.causes import causes
from conformance.judging.facts import Place, Raised
from conformance.judging.model_facts import Added, Lost
from conformance.judging.verdicts import Failure, Violation
from conformance.regressions.entries import StoredFailure
from conformance.regressions.proof import FileRun, same_reason
from conformance.search.remaining import in_other_roles, remaining
from conformance.search.settling import manner
from conformance.subjects.models.decoders import decoder_of, role_of
from strategies.models.adapters import ModelAdapter
from strategies.models.cases import ModelCase

CASE = ModelCase(adapter=ModelAdapter(("mlp.gate", "o_proj", "down_proj")))
GATE = tuple(f"base_model.model.model.layers.0.mlp.gate.lora_{part}.weight" for part in "AB")
OUT = "base_model.model.model.layers.0.self_attn.o_proj.lora_B.weight"


def vanished(role: str, fact: Lost | None = None, case: ModelCase = CASE) -> Violation:
    return Violation("key-vanished", fact or Lost(GATE), case, Place(role=role))


@pytest.mark.parametrize(
    ("parameter", "decoder", "role"),
    [
        ("model.layers.3.mlp.gate.weight", "model", "mlp.gate"),
        ("model.layers.3.mlp.experts.7.w1.weight", "model", "mlp.experts.*.w1"),
        ("model.layers.0.mlp.experts.gate_up_proj", "model", "mlp.experts.gate_up_proj"),
        ("model.visual.blocks.0.attn.qkv.weight", "model.language_model", "model.visual.blocks"),
        ("model.visual.merger.mlp.fc1.weight", "model.language_model", "model.visual.merger.mlp"),
        ("model.language_model.layers.1.self_attn.q_proj.weight", "model.language_model", "self_attn.q_proj"),
        ("lm_head.weight", "model", "lm_head"),
        ("encoder.layer.0.output.dense.weight", "", "output.dense"),
    ],
)
def test_a_role_is_the_place_in_a_layer_or_that_of_a_tower(parameter: str, decoder: str, role: str) -> None:
    assert role_of(parameter, decoder) == role


def test_a_model_that_names_no_decoder_is_one_as_a_whole() -> None:
    assert decoder_of(nn.Linear(1, 1)) == ""


def test_roles_and_options_are_ways_of_failing_of_their_own() -> None:
    option = ModelCase(options=("enable_tower_connector_lora",))
    kinds = [manner(one) for one in (vanished("mlp.gate"), vanished("o_proj"), vanished("o_proj", case=option))]
    assert len(set(kinds)) == 3
    failures = [Failure.of("MODEL-1", vanished(role)) for role in ("mlp.gate", "o_proj", "mlp.gate")]
    assert [len(cause.failures) for cause in causes(failures)] == [2, 1]
    assert [one.role for one in failures] == ["mlp.gate", "o_proj", "mlp.gate"]


def test_what_remains_is_looked_at_without_the_targets_that_vanished() -> None:
    left = remaining(vanished("mlp.gate", Lost(GATE, more=(("self_attn.o_proj", False, (OUT,)),))))
    assert left is not None
    assert left.adapter.modules == ("o_proj", "down_proj")
    both = remaining(vanished("mlp.gate", Lost(GATE, alike=(OUT,))))
    assert both is not None
    assert both.adapter.modules == ("down_proj",)
    alone = ModelCase(adapter=ModelAdapter((), ("mlp.gate.weight",)))
    assert remaining(vanished("mlp.gate", case=alone)) is None


def test_what_vanishes_of_one_file_in_other_roles_is_told_apart_without_another_case() -> None:
    down = tuple(OUT.replace("self_attn.o_proj", f"mlp.down_proj.{number}") for number in range(2))
    more = (("o_proj", True, (OUT,)), *(("mlp.down_proj", False, (one,)) for one in down))
    found = vanished("mlp.gate", Lost(GATE, more=more))
    assert [(one.role, one.fact) for one in in_other_roles(found)] == [
        ("o_proj", Lost((OUT,), among_others=True)),
        ("mlp.down_proj", Lost(down[:1], alike=down[1:])),
    ]
    assert remaining(found, in_other_roles(found)) == ModelCase(adapter=ModelAdapter(("down_proj",)))


def test_what_remains_of_a_stage_that_takes_no_such_adapter_is_the_whole_model() -> None:
    refused = Violation("raised", Raised("ValueError", "no"), ModelCase(stages=2, stage=1))
    assert remaining(refused) == ModelCase()
    assert remaining(Violation("raised", Raised("ValueError", "no"), ModelCase(stages=2))) is None


@pytest.mark.parametrize(
    ("left", "shown"),
    [
        ([[0.0, 0.0], [0.0, 2.5]], True),  # one rank's
        ([[[0.0, 0.0], [0.0, 2.5]], [[1.0]]], True),  # that of rank 0 of two
        ([[[0.0, 0.0]], [[0.0, 2.5]]], True),  # of ranks that have the inputs in parts
        ([[0.0, 0.0], [2.5, 0.0]], False),
    ],
)
def test_a_file_is_proved_by_the_number_that_the_suite_saw(left: object, *, shown: bool) -> None:
    found = Violation("rows-moved", Added("output", (1, 1), 2.5, 1.0), CASE, Place(rank=0))
    failure = Failure.of("MODEL-2", found)
    stored = StoredFailure("MODEL-2", failure.anomaly, failure.message, "vllm", seen=failure.seen)
    assert same_reason(FileRun(1, "", {"type": "AssertionError", "left": left}), stored) is shown
