"""Refusals, one wrapper, and the warm-up rank of a model with experts."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import lora_compat
from conformance.engines.threads import ThreadsEngine
from lora_compat import ExpertAdapter, ExpertsAdapter, FusedMoE, LoRAConfig, ReplicatedLinear, SubAdapter
from lora_compat.errors import AdapterShapeError, SlotError, UnsupportedLayerError

CONFIG = LoRAConfig(max_loras=2, max_lora_rank=4)


def sub(rows: int, rank: int, columns: int) -> SubAdapter:
    return SubAdapter(torch.ones(rank, columns), torch.ones(rows, rank))


def test_an_adapter_that_does_not_fit_is_refused_and_leaves_every_expert() -> None:
    layer = lora_compat.wrap_experts(FusedMoE(2, 1, 3, 4), CONFIG)
    fits = ExpertAdapter((sub(4, 1, 3), sub(4, 1, 3)), sub(3, 1, 4))
    layer.set_lora(0, ExpertsAdapter((fits, fits)))
    before = [delta.slots.lora_b.clone() for delta in layer.deltas.values()]
    misfit = ExpertAdapter((sub(4, 1, 3), sub(4, 1, 3)), sub(3, 1, 5))
    with pytest.raises(AdapterShapeError, match=r"w2_weight.*\(1, 4\), received \(1, 5\)"):
        layer.set_lora(0, ExpertsAdapter((ExpertAdapter(), misfit)))
    with pytest.raises(AdapterShapeError, match="expected 2 experts, received 1 experts"):
        layer.set_lora(0, ExpertsAdapter((fits,)))
    with pytest.raises(SlotError):
        layer.set_lora(2, ExpertsAdapter((fits, fits)))
    after = [delta.slots.lora_b for delta in layer.deltas.values()]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


def test_a_reset_slot_is_empty_in_every_expert() -> None:
    layer = lora_compat.wrap_experts(FusedMoE(2, 1, 3, 4), CONFIG)
    one = ExpertAdapter((sub(8, 2, 3),), sub(3, 2, 4))
    layer.set_lora(1, ExpertsAdapter((one, one)))
    assert all(bool(delta.slots.lora_b.any()) for delta in layer.deltas.values())
    layer.reset_lora(1)
    assert not any(bool(delta.slots.lora_b.any()) for delta in layer.deltas.values())


def test_a_mixture_has_one_wrapper_and_nothing_else_is_one() -> None:
    layer = FusedMoE(2, 1, 3, 4)
    wrapped = lora_compat.wrap_experts(layer, CONFIG)
    assert lora_compat.wrap_experts(layer, CONFIG) is wrapped
    assert lora_compat.wrap_experts(wrapped, CONFIG) is wrapped
    with pytest.raises(UnsupportedLayerError, match="no FusedMoE"):
        lora_compat.wrap_experts(ReplicatedLinear(2, 2), CONFIG)


def test_at_32_ranks_fully_sharded_experts_raise_the_default_rank_of_8() -> None:
    """The deployment of vllm #35077."""
    config = LoRAConfig(max_loras=1, max_lora_rank=64, fully_sharded_loras=True)

    def on_rank(group: lora_compat.TensorParallelGroup) -> tuple[int, int]:
        ranks = []
        for parallel in (False, True):
            with lora_compat.tensor_parallel(group):
                model = nn.Sequential(FusedMoE(32, 1, 2, 32, expert_parallel=parallel))
            model[0] = lora_compat.wrap_experts(model[0], config)
            ranks.append(lora_compat.warmup_rank_of(model, max_lora_rank=64))
        return ranks[0], ranks[1]

    assert ThreadsEngine().run(32, on_rank) == [(32, 8)] * 32
