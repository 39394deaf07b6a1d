"""vLLM as layer library and as implementation: what the suite's verdicts about it rest on."""

from __future__ import annotations

import pytest
import torch

from conformance.engines.ranks import RankGroup
from conformance.engines.threads import ThreadsEngine
from conformance.implementations.protocol import MissingPrerequisite
from conformance.implementations.reference import ReferenceImplementation
from conformance.implementations.vllm import VllmImplementation
from conformance.implementations.vllm.groups import TensorParallelStandIn
from conformance.implementations.vllm.layers import VllmLayers
from conformance.implementations.vllm.runtime import needs_spare_slot
from conformance.oracles.linear import expected_of
from conformance.subjects.building import build_layer, flatten, load_weights
from conformance.subjects.linear import RankSession
from conformance.subjects.subject import Subject
from conformance.values.linear import values_of
from lora_compat.families import Family
from strategies.cases import AdapterSpec, Case, LayerSpec
from strategies.subclasses import Loader, SubclassSpec

MERGED = LayerSpec(family=Family.MERGED_COLUMN, input_size=4, output_sizes=(4, 6, 2))


def test_a_missing_vllm_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from conformance.implementations.vllm import runtime as vllm_runtime

    monkeypatch.setattr(vllm_runtime.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingPrerequisite, match=r"uv pip install -e '\.\[vllm\]'.*IMPL=vllm"):
        vllm_runtime.runtime.__wrapped__()


def test_the_group_says_what_it_lacks() -> None:
    with pytest.raises(AttributeError, match="'broadcast'"):
        TensorParallelStandIn().broadcast  # noqa: B018


def test_a_layer_outside_a_group_is_an_error() -> None:
    with pytest.raises(RuntimeError, match=r"outside VllmLayers\.ranked"):
        TensorParallelStandIn().world_size  # noqa: B018


@pytest.mark.vllm
@pytest.mark.parametrize("rank", [0, 1])
def test_a_drawn_classes_own_loader_loads_its_weight(rank: int) -> None:
    subclass = SubclassSpec(depth=1, loader=Loader.REPLICATED_LAST)
    case = Case(layer=MERGED, subclass=subclass, tp_size=2, adapters=(AdapterSpec(fused=True),))
    tensors, library = values_of(case), VllmLayers()
    with library.ranked(RankGroup(rank, 2, lambda rank, issued, tensor: [tensor])):
        layer = build_layer(case, library, torch.float64)
        load_weights(case, library, layer, tensors.weights, tensors.biases)
    first, second, last = tensors.weights
    assert torch.equal(layer.weight.data, torch.cat([first.chunk(2)[rank], second.chunk(2)[rank], last]))


@pytest.mark.vllm
@pytest.mark.parametrize("implementation", [VllmImplementation(), ReferenceImplementation(VllmLayers())])
def test_a_tensor_parallel_layer_is_right_on_every_rank(implementation: VllmImplementation) -> None:
    layer = LayerSpec(family=Family.ROW, input_size=8, output_sizes=(4,))
    case = Case(layer=layer, tp_size=2, fully_sharded=True, max_rank=8, adapters=(AdapterSpec(rank=3, alpha=3.0),))
    subject = Subject(implementation, ThreadsEngine())
    outputs = subject.observe(case, lambda rank: flatten(rank.build().wrap().load().run()))
    for (output,), right in zip(outputs, expected_of(subject, case), strict=True):
        assert torch.equal(output.double(), right.values[0])


@pytest.mark.vllm
def test_tokens_without_an_adapter_leak_as_is_only() -> None:
    """Bug K1, before 0.33.0: kept out of every clause, and seen by the one that asks for it."""
    implementation = VllmImplementation()
    case = Case(layer=LayerSpec(input_size=4, output_sizes=(4,)), tokens=(0, -1))

    def program(rank: RankSession) -> list[list[torch.Tensor]]:
        bare = flatten(rank.build().run())[0][1].clone()
        rank.wrap().load()
        clean = flatten(rank.run())[0][1].clone()
        with implementation.layers.ranked(rank.group):
            implementation.select_as_is(rank.layer, case.token_slots)
            as_is = flatten(rank.layer(rank.input()))[0][1]
        return [bare, clean, as_is]

    ((bare, clean, as_is),) = Subject(implementation, ThreadsEngine()).observe(case, program)
    assert torch.equal(clean, bare)
    assert torch.equal(as_is, bare) is not needs_spare_slot()
