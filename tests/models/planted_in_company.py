"""More bugs on the seam: of adapters beside others, and of room for them; `planted` has them with its own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from strategies.models.deployments import Deployment
from tests.models.planted import around, part, planted

_BACK_FROM_MEMORY = {"deployment": Deployment(slots=1, spare=3)}


@planted("MODEL-5", "wrong-slot", "o_proj", "down_proj")
def a_batch_has_the_adapter_of_its_first_token(monkey: pytest.MonkeyPatch) -> None:
    def of_the_first(original: Any, self: Any, mapping: Any) -> None:
        ids = mapping.index_mapping
        original(self, replace(mapping, index_mapping=ids[:1] * len(ids)))

    around(monkey, part("model_manager", "LoRAModelManager"), "_set_adapter_mapping", of_the_first)


@planted("MODEL-5", "wrong-slot", "q_proj", "k_proj", "v_proj")
def tokens_without_an_adapter_get_the_last_ones(monkey: pytest.MonkeyPatch) -> None:
    def of_the_last(original: Any, self: Any, mapping: Any) -> None:
        last = max(mapping.index_mapping)  # of a batch that has any: one without is right
        ids = tuple(one or last for one in mapping.index_mapping)
        original(self, replace(mapping, index_mapping=ids))

    around(monkey, part("model_manager", "LoRAModelManager"), "_set_adapter_mapping", of_the_last)


@planted("MODEL-5", "stale-slot", "o_proj", "down_proj")
def a_module_that_the_next_adapter_lacks_keeps_the_last_one(monkey: pytest.MonkeyPatch) -> None:
    monkey.setattr(part("layers", "RowParallelLinearWithLoRA"), "reset_lora", lambda self, slot: None)


@planted("MODEL-5", "stale-slot", "o_proj")
def loaded_in_place_it_is_as_it_was(monkey: pytest.MonkeyPatch) -> None:
    def kept(original: Any, self: Any, request: Any) -> Any:
        request.load_inplace = False
        return original(self, request)

    around(monkey, part("worker_manager", "LRUCacheWorkerLoRAManager"), "add_adapter", kept)


@planted("MODEL-5", "stale-slot", "o_proj", **_BACK_FROM_MEMORY)
def loading_changes_what_is_kept(monkey: pytest.MonkeyPatch) -> None:
    def doubled(original: Any, self: Any, slot: int, a: Any, b: Any) -> None:
        original(self, slot, a, b)
        b.mul_(2)

    around(monkey, part("layers", "RowParallelLinearWithLoRA"), "set_lora", doubled)


@planted("MODEL-2", "scale-dropped", "o_proj", adapter={"alpha": 2.0}, deployment=Deployment(narrow=True))
def adapters_of_another_dtype_are_not_scaled(monkey: pytest.MonkeyPatch) -> None:
    def scaled(original: Any, self: Any) -> Any:
        return self if self.lora_b.dtype is torch.bfloat16 else original(self)

    around(monkey, part("lora_weights", "LoRALayerWeights"), "optimize", scaled)


@planted("MODEL-1", "key-vanished", "o_proj", deployment=Deployment(room=8))
def far_below_the_largest_rank_it_is_left_out(monkey: pytest.MonkeyPatch) -> None:
    def left_out(original: Any, self: Any, slot: int, a: Any, b: Any) -> None:
        if 16 * len(a) > self.lora_config.max_lora_rank or self.lora_config.max_lora_rank < 64:
            original(self, slot, a, b)

    around(monkey, part("layers", "RowParallelLinearWithLoRA"), "set_lora", left_out)
