"""SGLang as layer library and as implementation: what the suite's verdicts about it rest on."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from conformance.contract import CONTRACT
from conformance.engines.threads import ThreadsEngine
from conformance.implementations.protocol import MissingPrerequisite
from conformance.implementations.sglang import SglangImplementation
from conformance.implementations.sglang import runtime as sglang_runtime
from conformance.implementations.sglang.implementation import WITHOUT
from conformance.subjects.building import class_of, flatten
from conformance.subjects.subject import Subject
from lora_compat.families import Family
from strategies.cases import AdapterSpec, Case, LayerSpec
from strategies.libraries import Library
from strategies.source import render
from strategies.subclasses import Constructor, SubclassSpec

FINDINGS = Path(__file__).parents[2] / "docs" / "findings" / "sglang"
TWO_OUTPUTS = LayerSpec(family=Family.MERGED_COLUMN, input_size=4, output_sizes=(4, 4), gather_output=True)


@pytest.fixture
def subject() -> Iterator[Subject]:
    pytest.importorskip("sglang")
    implementation = SglangImplementation()
    implementation.layers.prepare()
    torch.set_grad_enabled(False)
    yield Subject(implementation, ThreadsEngine())
    torch.set_grad_enabled(True)


def test_a_missing_sglang_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sglang_runtime.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingPrerequisite, match=r"make conformance IMPL=sglang.*uv pip install -e '\.\[sglang\]'"):
        sglang_runtime.runtime.__wrapped__()


def test_what_it_has_no_notion_of_are_clauses() -> None:
    assert WITHOUT.keys() <= CONTRACT.keys()


def test_a_case_is_fitted_to_layers_that_return_their_bias() -> None:
    case = SglangImplementation().fitted(Case(layer=LayerSpec(return_bias=False, disable_tp=True), tp_size=2))
    assert case == Case(tp_size=2)


def test_a_class_that_keeps_out_of_tensor_parallelism_says_so_in_its_words() -> None:
    layer = LayerSpec(family=Family.COLUMN, disable_tp=True)
    source = render(layer, SubclassSpec(depth=1, constructor=Constructor.HARD_CODED), Library.SGLANG)
    assert 'parallel_group="replicated"' in source
    assert "disable_tp" not in source


@pytest.mark.sglang
def test_every_thread_sees_its_own_rank(subject: Subject) -> None:
    state = sglang_runtime.runtime().context

    def program(group: object) -> tuple[int, int]:
        with subject.implementation.layers.ranked(group):
            parallel = state.get_parallel()
            return parallel.tp_rank, parallel.attn_tp_group.world_size

    assert subject.on_ranks(3, program) == [(0, 3), (1, 3), (2, 3)]


@pytest.mark.sglang
def test_no_rank_compiles(subject: Subject) -> None:
    def program(group: object) -> bool:
        with subject.implementation.layers.ranked(group):
            return torch._dynamo.config.disable

    assert subject.on_ranks(2, program) == [True, True]


@pytest.mark.sglang
def test_a_layer_outside_a_group_is_an_error(subject: Subject) -> None:
    with pytest.raises(RuntimeError, match="tp_rank"):
        sglang_runtime.runtime().context.get_parallel().tp_rank  # noqa: B018


@pytest.mark.sglang
@pytest.mark.parametrize("fused", [False, True])
def test_an_adapter_reaches_both_outputs_of_a_merged_layer(subject: Subject, fused: bool) -> None:
    adapter = AdapterSpec(rank=2, alpha=2.0, present=(True,) if fused else (True, True), fused=fused)
    case = Case(layer=TWO_OUTPUTS, tp_size=2, max_rank=8, packed=(1, 1), adapters=(adapter,), tokens=(0, -1))
    assert class_of(case.layer, case.subclass, Library.SGLANG).__module__ == "sglang.srt.layers.linear"
    for bare, served in subject.observe(case, lambda rank: (flatten(rank.build().run()), flatten(_served(rank)))):
        assert torch.equal(served[0][1], bare[0][1])
        assert all((served[0][0] - bare[0][0])[half].any() for half in (slice(0, 4), slice(4, 8)))


def _served(rank: object) -> object:
    return rank.wrap().load().run()  # type: ignore[attr-defined]


@pytest.mark.sglang
def test_every_finding_is_present() -> None:
    command = [sys.executable, str(FINDINGS.parent / "run_all.py"), "sglang"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    verdicts = {line.split()[0]: line.split()[1] for line in run.stdout.splitlines() if ".py " in line}
    assert verdicts == {script.name: "PRESENT" for script in FINDINGS.glob("[0-9]*.py")}
