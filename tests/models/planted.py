"""Bugs on the seam between adapter file and model, planted into vLLM while a case runs, and what each is called."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from conformance.subjects.models.observing import chains
from strategies.models.adapters import ModelAdapter
from strategies.models.cases import ModelCase
from strategies.models.configs import ConfigChoices

Patch = Callable[[pytest.MonkeyPatch], None]
EXPERTS = ("experts.gate_up_proj", "experts.down_proj")


@dataclass(frozen=True, slots=True)
class Planted:
    """A bug: the clause that it breaks, what it is called, on which case, and how it is planted."""

    clause: str
    anomaly: str
    case: ModelCase
    plant: Patch


PLANTED: dict[str, Planted] = {}


def planted(clause: str, anomaly: str, *modules: str, **case: Any) -> Callable[[Patch], Patch]:
    """Registers a bug that shows on an adapter of ``modules``."""
    adapter = ModelAdapter(modules=modules, **case.pop("adapter", {}))

    def register(patch: Patch) -> Patch:
        def plant(monkey: pytest.MonkeyPatch) -> None:
            chains.cache_clear()  # what was found out of its chain without it
            patch(monkey)

        PLANTED[patch.__name__] = Planted(clause, anomaly, ModelCase(adapter=adapter, **case), plant)
        return patch

    return register


def part(path: str, name: str) -> Any:
    """Something of vLLM's LoRA."""
    return getattr(importlib.import_module(f"vllm.lora.{path}"), name)


def around(monkey: pytest.MonkeyPatch, cls: Any, method: str, change: Callable[..., Any]) -> None:
    """Replaces a method by ``change(original, self, *arguments)``."""
    original = getattr(cls, method)
    monkey.setattr(cls, method, lambda self, *given, **named: change(original, self, *given, **named))


@planted("MODEL-2", "scale-dropped", "o_proj", adapter={"alpha": 2.0})
def scaling_forgotten(monkey: pytest.MonkeyPatch) -> None:
    monkey.setattr(part("lora_weights", "LoRALayerWeights"), "optimize", lambda self: self)


@planted("MODEL-2", "scale-twice", "o_proj", adapter={"alpha": 2.0})
def scaling_applied_twice(monkey: pytest.MonkeyPatch) -> None:
    def twice(original: Any, self: Any) -> Any:
        self.lora_b = self.lora_b * self.scaling
        return original(self)

    around(monkey, part("lora_weights", "LoRALayerWeights"), "optimize", twice)


@planted("MODEL-2", "halved", "o_proj", adapter={"rank": 4, "alpha": 2.0, "rslora": True})
def rank_stabilization_ignored(monkey: pytest.MonkeyPatch) -> None:
    monkey.setattr(part("peft_helper", "PEFTHelper"), "_scaling", lambda self, rank, alpha: alpha / rank)


@planted("MODEL-2", "scale-dropped", "o_proj", adapter={"alphas": (("o_proj", 4.0),)})
def alpha_pattern_ignored(monkey: pytest.MonkeyPatch) -> None:
    cls = part("peft_helper", "PEFTHelper")
    monkey.setattr(cls, "get_rank_and_scaling", lambda self, name: (self.r, self._scaling(self.r, 1)))


@planted("MODEL-1", "key-vanished", "o_proj", "down_proj")
def key_lost(monkey: pytest.MonkeyPatch) -> None:
    def lose(original: Any, self: Any, lora: Any) -> Any:
        original(self, lora)
        lora.loras = {name: one for name, one in lora.loras.items() if "o_proj" not in name}

    around(monkey, part("model_manager", "LoRAModelManager"), "_add_adapter", lose)


@planted("MODEL-1", "key-vanished", "down_proj")
def rows_left_unwrapped(monkey: pytest.MonkeyPatch) -> None:
    for name in ("RowParallelLinearWithLoRA", "RowParallelLinearWithShardedLoRA"):
        monkey.setattr(part("layers", name), "can_replace_layer", classmethod(lambda cls, **given: False))


@planted("MODEL-1", "raised", "o_proj")
def refusal_without_a_name(monkey: pytest.MonkeyPatch) -> None:
    def refuse(*given: Any, **named: Any) -> None:
        raise ValueError("this adapter cannot be loaded")

    monkey.setattr(part("lora_model", "LoRAModel"), "from_local_checkpoint", refuse)


@planted("MODEL-2", "rows-moved", "k_proj", "v_proj")
def members_in_another_order(monkey: pytest.MonkeyPatch) -> None:
    cls = part("lora_weights", "PackedLoRALayerWeights")
    pack = cls.pack.__func__
    monkey.setattr(cls, "pack", classmethod(lambda cls, loras: pack(cls, [loras[0], *loras[:0:-1]])))


@planted("MODEL-2", "transposed", "o_proj")
def factors_turned(monkey: pytest.MonkeyPatch) -> None:
    cls = part("layers", "RowParallelLinearWithLoRA")
    around(monkey, cls, "set_lora", lambda original, self, slot, a, b: original(self, slot, b.T, a.T))


@planted("MODEL-2", "other-module", "o_proj", config=ConfigChoices(layers=2))
def layers_in_another_order(monkey: pytest.MonkeyPatch) -> None:
    def other(original: Any, self: Any, lora: Any, name: str) -> Any:
        return original(self, lora, name.replace("layers.0", "layers.x").replace("layers.1", "layers.0")
                        .replace("layers.x", "layers.1"))  # fmt: skip

    around(monkey, part("model_manager", "LoRAModelManager"), "_get_lora_layer_weights", other)


@planted("MODEL-2", "rows-moved", "down_proj")
def rows_of_b_turned_around(monkey: pytest.MonkeyPatch) -> None:
    cls = part("layers", "RowParallelLinearWithLoRA")
    around(monkey, cls, "set_lora", lambda original, self, slot, a, b: original(self, slot, a, b.flip(0)))


@planted("MODEL-2", "columns-moved", "down_proj")
def columns_of_a_turned_around(monkey: pytest.MonkeyPatch) -> None:
    cls = part("layers", "RowParallelLinearWithLoRA")
    around(monkey, cls, "set_lora", lambda original, self, slot, a, b: original(self, slot, a.flip(1), b))


@planted("MODEL-2", "landed-in-part", "gate_proj", "up_proj")
def a_member_left_out(monkey: pytest.MonkeyPatch) -> None:
    cls = part("layers", "MergedColumnParallelLinearWithLoRA")

    def first(original: Any, self: Any, slot: int, a: Any, b: Any) -> Any:
        return original(self, slot, [a[0], None], [b[0], None])

    around(monkey, cls, "set_lora", first)


@planted("MODEL-2", "rows-moved", "embed_tokens")
def ids_of_an_embedding_shifted(monkey: pytest.MonkeyPatch) -> None:
    cls = part("layers", "VocabParallelEmbeddingWithLoRA")
    around(monkey, cls, "set_lora", lambda original, self, slot, a, b: original(self, slot, a.roll(1, 1), b))


@planted("MODEL-2", "rows-moved", target="qwen3_moe", adapter={"parameters": EXPERTS})
def gate_and_up_exchanged(monkey: pytest.MonkeyPatch) -> None:
    def exchanged(original: Any, self: Any, slot: int, a: Any, b: Any) -> Any:
        return original(self, slot, a[::-1], b[::-1])

    around(monkey, part("layers", "FusedMoEWithLoRA"), "set_lora", exchanged)


@planted("MODEL-2", "other-expert", target="qwen3_moe", adapter={"parameters": EXPERTS})
def experts_shifted(monkey: pytest.MonkeyPatch) -> None:
    def shifted(original: Any, self: Any, slot: int, a: Any, b: Any) -> Any:
        return original(self, slot, [one.roll(1, 0) for one in a], [one.roll(1, 0) for one in b])

    around(monkey, part("layers", "FusedMoEWithLoRA"), "set_lora", shifted)


@planted("MODEL-3", "key-vanished", "o_proj", "down_proj")
def last_tensors_of_a_pickle_lost(monkey: pytest.MonkeyPatch) -> None:
    load = torch.load
    monkey.setattr(torch, "load", lambda *given, **named: dict(list(load(*given, **named).items())[2:]))


@planted("MODEL-4", "base-changed", "o_proj")
def wrapping_touches_the_base(monkey: pytest.MonkeyPatch) -> None:
    def touch(original: Any, self: Any, *given: Any, **named: Any) -> Any:
        self.base_layer.weight.data[0] += 1
        return original(self, *given, **named)

    around(monkey, part("layers", "RowParallelLinearWithLoRA"), "create_lora_weights", touch)


@planted("MODEL-4", "base-changed", "o_proj")
def tokens_without_adapter_keep_the_last_one(monkey: pytest.MonkeyPatch) -> None:
    used: set[int] = set()

    def note(original: Any, self: Any, number: int) -> Any:
        used.add(number)
        return original(self, number)

    def kept(original: Any, self: Any, mapping: Any) -> Any:
        ids = tuple(one or max(used, default=0) for one in mapping.index_mapping)
        self.lora_index_to_id[0] = max(used, default=None)
        return original(self, type(mapping)(ids, ids, is_prefill=False))

    around(monkey, part("model_manager", "LoRAModelManager"), "activate_adapter", note)
    around(monkey, part("model_manager", "LoRAModelManager"), "set_adapter_mapping", kept)


@planted("MODEL-5", "wrong-slot", "o_proj", "down_proj")
def every_adapter_into_the_first_slot(monkey: pytest.MonkeyPatch) -> None:
    cls = part("layers", "RowParallelLinearWithLoRA")
    around(monkey, cls, "set_lora", lambda original, self, slot, a, b: original(self, 0, a, b))
    around(monkey, cls, "reset_lora", lambda original, self, slot: original(self, 0))


@planted("MODEL-5", "file-changed", "o_proj")
def loading_writes_to_the_directory(monkey: pytest.MonkeyPatch) -> None:
    cls = part("peft_helper", "PEFTHelper")
    read = cls.from_local_dir.__func__

    def write(cls: Any, directory: str, *given: Any) -> Any:
        file = Path(directory) / "adapter_config.json"
        file.write_text(file.read_text() + " ")
        return read(cls, directory, *given)

    monkey.setattr(cls, "from_local_dir", classmethod(write))


@planted("MODEL-9", "feature-ignored", "o_proj", adapter={"feature": "init_lora_weights"})
def features_are_not_looked_at(monkey: pytest.MonkeyPatch) -> None:
    monkey.setattr(part("peft_helper", "PEFTHelper"), "_validate_features", lambda self: [])


@planted("MODEL-9", "raised", "o_proj", adapter={"feature": "alora_invocation_tokens"})
def a_feature_is_refused_without_its_name(monkey: pytest.MonkeyPatch) -> None:
    around(
        monkey,
        part("peft_helper", "PEFTHelper"),
        "_validate_features",
        lambda original, self: ["Not supported."] if original(self) else [],
    )


@planted("MODEL-6", "does-not-start", "o_proj")
def no_dummy_for_the_warm_up(monkey: pytest.MonkeyPatch) -> None:
    def fail(self: Any, *given: Any) -> None:
        raise KeyError("qkv_proj")

    monkey.setattr(part("model_manager", "LoRAModelManager"), "create_dummy_lora", fail)


@planted("MODEL-7", "other-rank", "gate_proj", tp_size=2)
def every_rank_takes_the_first_ones_rows(monkey: pytest.MonkeyPatch) -> None:
    def first(original: Any, self: Any, b: Any) -> Any:
        ids, self.output_ids = self.output_ids, (0,) * self.n_slices
        try:
            return original(self, b)
        finally:
            self.output_ids = ids

    around(monkey, part("layers", "MergedColumnParallelLinearWithLoRA"), "slice_lora_b", first)


TOWERS = {"target": "Qwen2_5_VLForConditionalGeneration", "options": ("enable_tower_connector_lora",)}


@planted("MODEL-1", "key-vanished", "attn.proj", **TOWERS)
def the_tokens_of_a_tower_are_nobodys(monkey: pytest.MonkeyPatch) -> None:
    def without_adapters(original: Any, self: Any, mapping: Any) -> None:
        if mapping.type == part("layers", "LoRAMappingType").TOWER:
            mapping = replace(mapping, index_mapping=(0,) * len(mapping.index_mapping))
        original(self, mapping)

    around(monkey, part("model_manager", "LoRAModelManager"), "_set_adapter_mapping", without_adapters)


@planted("MODEL-6", "does-not-start", "attn.proj", **TOWERS)
def tokens_of_an_image_of_another_configuration(monkey: pytest.MonkeyPatch) -> None:
    models = importlib.import_module("vllm.model_executor.models.qwen2_5_vl")

    def count(self: Any, **given: Any) -> tuple[int, int]:
        return self.config.vision_config.default_output_length, 1

    monkey.setattr(models.Qwen2_5_VLForConditionalGeneration, "get_mm_lora_token_counts", count)
