"""More bugs on the seam: of names, patterns, ends, ranks and stages; `planted` has them with its own."""

from __future__ import annotations

import importlib
import re
from typing import Any

import pytest

from strategies.models.configs import ConfigChoices
from tests.models.planted import EXPERTS, around, part, planted


@planted("MODEL-1", "key-vanished", "o_proj")
def names_of_another_wrapper(monkey: pytest.MonkeyPatch) -> None:
    parse = part("lora_model", "parse_fine_tuned_lora_name")

    def under_another(name: str, *given: Any) -> tuple[str, bool]:
        found, is_a = parse(name, *given)
        return f"language_model.{found}", is_a

    monkey.setattr("vllm.lora.lora_model.parse_fine_tuned_lora_name", under_another)


@planted("MODEL-3", "key-vanished", "gate_proj", target="LlavaForConditionalGeneration")
def names_of_the_language_model_alone_not_looked_for(monkey: pytest.MonkeyPatch) -> None:
    monkey.setattr(part("model_manager", "LoRAModelManager"), "_get_text_lora_names", lambda self, name: [])


@planted("MODEL-1", "key-vanished", "o_proj", target="Qwen3Model")
def names_without_a_head_not_looked_for(monkey: pytest.MonkeyPatch) -> None:
    cls = part("model_manager", "LoRAModelManager")
    monkey.setattr(cls, "_get_lora_layer_weights", lambda self, lora, name: lora.get_lora(name))


@planted("MODEL-1", "key-vanished", "score", "o_proj", target="Qwen3ForSequenceClassification")
def classifier_left_out(monkey: pytest.MonkeyPatch) -> None:
    cls = part("layers", "BaseClassificationHeadWithLoRA")
    monkey.setattr(cls, "set_lora", lambda self, slot, a, b: None)


@planted("MODEL-1", "key-vanished", "o_proj", config=ConfigChoices(layers=2))
def last_layer_lost(monkey: pytest.MonkeyPatch) -> None:
    def lose(original: Any, self: Any, lora: Any) -> Any:
        original(self, lora)
        lora.loras = {name: one for name, one in lora.loras.items() if "layers.1." not in name}

    around(monkey, part("model_manager", "LoRAModelManager"), "_add_adapter", lose)


@planted("MODEL-1", "key-vanished", "lm_head", "o_proj")
def head_left_out(monkey: pytest.MonkeyPatch) -> None:
    cls = part("layers", "LogitsProcessorWithLoRA")
    around(monkey, cls, "set_lora", lambda original, self, slot, a, b: None)


@planted("MODEL-1", "key-vanished", "q_proj", "o_proj")
def a_module_is_lost_beside_another(monkey: pytest.MonkeyPatch) -> None:
    def lose(original: Any, self: Any, lora: Any) -> Any:
        original(self, lora)
        some = {name: one for name, one in lora.loras.items() if "o_proj" not in name}
        lora.loras = some or lora.loras

    around(monkey, part("model_manager", "LoRAModelManager"), "_add_adapter", lose)


@planted("MODEL-2", "rows-moved", "lm_head")
def ids_of_a_head_shifted(monkey: pytest.MonkeyPatch) -> None:
    cls = part("layers", "LogitsProcessorWithLoRA")
    around(monkey, cls, "set_lora", lambda original, self, slot, a, b: original(self, slot, a, b.roll(1, 0)))


@planted("MODEL-1", "key-vanished", "embed_tokens", "o_proj")
def embedding_left_out(monkey: pytest.MonkeyPatch) -> None:
    cls = part("layers", "VocabParallelEmbeddingWithLoRA")
    around(monkey, cls, "set_lora", lambda original, self, slot, a, b: None)


@planted("MODEL-2", "delta-doubled", "o_proj", adapter={"ranks": (("o_proj", 2),), "alpha": 2.0, "rank": 1})
def rank_pattern_ignored(monkey: pytest.MonkeyPatch) -> None:
    cls = part("peft_helper", "PEFTHelper")
    monkey.setattr(cls, "get_rank_and_scaling", lambda self, name: (self.r, self.lora_alpha / self.r))


@planted("MODEL-2", "other-module", "q_proj", "k_proj", "v_proj", adapter={"rank": 2})
def members_share_the_first_ones_factors(monkey: pytest.MonkeyPatch) -> None:
    cls = part("lora_weights", "PackedLoRALayerWeights")
    pack = cls.pack.__func__
    monkey.setattr(cls, "pack", classmethod(lambda cls, loras: pack(cls, [loras[0], loras[0], loras[2]])))


@planted("MODEL-5", "base-changed", "o_proj")
def a_removed_adapter_comes_back_halved(monkey: pytest.MonkeyPatch) -> None:
    loads: list[int] = []

    def halved(original: Any, self: Any, slot: int, a: Any, b: Any) -> Any:
        loads.append(slot)
        return original(self, slot, a, b / 2 if len(loads) > 3 else b)

    around(monkey, part("layers", "RowParallelLinearWithLoRA"), "set_lora", halved)


@planted("MODEL-6", "does-not-start", "o_proj")
def lora_refused_where_it_is_declared(monkey: pytest.MonkeyPatch) -> None:
    def refuse(self: Any, *given: Any, **named: Any) -> None:
        raise NotImplementedError("this model takes no LoRA")

    monkey.setattr(part("worker_manager", "WorkerLoRAManager"), "create_lora_manager", refuse)
    monkey.setattr(part("worker_manager", "LRUCacheWorkerLoRAManager"), "create_lora_manager", refuse)


@planted("MODEL-6", "does-not-start", "o_proj")
def lora_in_the_way_of_a_model_that_no_cpu_has_kernels_for(monkey: pytest.MonkeyPatch) -> None:
    def refuse(vllm_config: Any) -> Any:
        raise NotImplementedError("no backend" if vllm_config.lora_config is None else "experts take no LoRA")

    monkey.setattr(importlib.import_module("vllm.model_executor.model_loader"), "get_model", refuse)


@planted("MODEL-7", "unexplained", "o_proj", tp_size=2)
def every_rank_takes_the_first_ones_columns(monkey: pytest.MonkeyPatch) -> None:
    def first(original: Any, self: Any, a: Any) -> Any:
        size = self.input_size
        return a[:, :size]

    around(monkey, part("layers", "RowParallelLinearWithLoRA"), "slice_lora_a", first)


@planted("MODEL-7", "other-rank", target="qwen3_moe", adapter={"parameters": EXPERTS, "rank": 2}, tp_size=2)
def every_rank_takes_the_first_ones_experts(monkey: pytest.MonkeyPatch) -> None:
    monkey.setattr(part("layers", "FusedMoEWithLoRA"), "ep_rank", 0)


@planted(
    "MODEL-2",
    "rows-moved",
    target="gpt_oss",
    adapter={"parameters": EXPERTS},
    options=("enable_mixed_moe_lora_format",),
)
def rows_that_alternate_are_taken_for_halves(monkey: pytest.MonkeyPatch) -> None:
    def under_another_name(original: Any, self: Any, *given: Any) -> Any:
        name, self.model.config.architectures = self.model.config.architectures, ["AnotherForCausalLM"]
        try:
            return original(self, *given)
        finally:
            self.model.config.architectures = name

    around(monkey, part("model_manager", "LoRAModelManager"), "_convert_3d_to_2d_moe_lora", under_another_name)


STAGES: dict[str, Any] = {"config": ConfigChoices(layers=2), "stages": 2}


@planted("MODEL-7", "other-module", "o_proj", **STAGES)
def layers_are_counted_from_the_first_of_a_stage(monkey: pytest.MonkeyPatch) -> None:
    def counted(original: Any, self: Any, lora: Any, name: str) -> Any:
        first = self.model.model.start_layer
        own = re.sub(r"(?<=layers\.)\d+", lambda number: str(int(number.group()) - first), name)
        return original(self, lora, own)

    around(monkey, part("model_manager", "LoRAModelManager"), "_get_lora_layer_weights", counted)


@planted("MODEL-7", "raised", "o_proj", **STAGES)
def layers_of_other_stages_are_refused(monkey: pytest.MonkeyPatch) -> None:
    def refuse(original: Any, self: Any, lora: Any) -> Any:
        for name in lora.loras:
            if name not in self.modules:
                raise ValueError(f"the model has no {name}")
        return original(self, lora)

    around(monkey, part("model_manager", "LoRAModelManager"), "_add_adapter", refuse)


@planted("MODEL-7", "raised", "o_proj", **STAGES)
def a_stage_without_an_embedding_does_not_start(monkey: pytest.MonkeyPatch) -> None:
    def create(original: Any, self: Any) -> Any:
        assert hasattr(self.model.model.embed_tokens, "org_vocab_size")
        return original(self)

    around(monkey, part("model_manager", "LoRAModelManager"), "_create_lora_modules", create)


@planted("MODEL-7", "other-rank", target="qwen3_moe", adapter={"parameters": EXPERTS, "rank": 2}, tp_size=2)
def every_rank_takes_the_first_ones_rows_of_experts(monkey: pytest.MonkeyPatch) -> None:
    cls = part("layers", "FusedMoEWithLoRA")
    around(monkey, cls, "_slice_w13_b", lambda original, self, b: b[:, : self.w13_lora_b_stacked[0].shape[2]])


@planted("MODEL-7", "unexplained", target="qwen3_moe", adapter={"parameters": EXPERTS, "rank": 2}, tp_size=2)
def every_rank_takes_the_first_ones_share_of_experts(monkey: pytest.MonkeyPatch) -> None:
    cls = part("layers", "FusedMoEWithLoRA")
    around(monkey, cls, "_slice_w2_b", lambda original, self, b: b[:, : self.w2_lora_b_stacked[0].shape[2]])
