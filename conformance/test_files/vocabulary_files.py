"""Regression files of embeddings and LM heads over a vocabulary (MATH-14, MATH-15)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from conformance.oracles.vocabulary import dense
from conformance.regressions.entries import StoredFailure
from conformance.test_files.dialects import CannotWrite, Dialect
from conformance.test_files.layer_files import assembled
from conformance.test_files.literals import INDENT, call, one_line, tensor_text
from conformance.test_files.scenes import Scene
from conformance.test_files.vllm_dialect import Vllm
from conformance.values.vocabulary import VocabularyTensors, tensors_of
from strategies.cases import AdapterSpec, Case
from strategies.vocabulary import VocabularyCase, VocabularyLayer

_CLASSES = {VocabularyLayer.EMBEDDING: "VocabParallelEmbedding", VocabularyLayer.LM_HEAD: "ParallelLMHead"}
_SCALED = """
class ScaledEmbedding(VocabParallelEmbedding):
    def forward(self, input_: torch.Tensor) -> Any:
        return super().forward(input_) * {multiplier}
""".strip("\n")
_FOR_ADAPTERS = {"LoRAConfig", "from_layer", "LoRAMapping", "get_punica_wrapper", "LogitsProcessorWithLoRA"}
_VLLM_LAYERS = "vllm.model_executor.layers"


def write(failure: StoredFailure, case: VocabularyCase, dialect: Dialect, told: str) -> str:
    """The file.

    Raises:
        CannotWrite: nothing of this library is judged by such a case.
    """
    tensors = tensors_of(case)
    if dialect.impl == "vllm" and case.added:
        raise CannotWrite("vLLM's loaders load no id that was added")
    form = _Form(failure, case, tensors, dialect)
    return assembled(form.scene, dialect, told, form.lines(), form.imports(), form.parts(), reduces=form.embeds)


@dataclass(frozen=True, slots=True)
class _Form:
    failure: StoredFailure
    case: VocabularyCase
    tensors: VocabularyTensors
    dialect: Dialect

    @property
    def embeds(self) -> bool:
        return self.case.layer is VocabularyLayer.EMBEDDING

    @property
    def configured(self) -> bool:
        """Whether it takes vLLM's logits processor, which asks for an engine's configuration."""
        return not self.embeds and self.dialect.impl == "vllm"

    @property
    def bare(self) -> bool:
        """Whether it is the layer without adapters that is wrong."""
        return self.failure.anomaly == "base-changed"

    @property
    def in_two_dimensions(self) -> bool:
        """Whether tokens come as a batch of sequences, which vLLM's logits processor does not take."""
        return self.case.two_dimensions and not self.configured

    @property
    def given(self) -> Tensor:
        given = torch.tensor(self.case.ids) if self.embeds else self.tensors.hidden
        return given[None] if self.in_two_dimensions else given

    @property
    def scene(self) -> Scene:
        """The case in the words that the dialects know."""
        case = self.case
        right = dense(case, self.tensors, adapted=not self.bare)
        expected = (
            self.given if self.failure.anomaly == "input-written" else right[None] if self.in_two_dimensions else right
        )
        as_layer = Case(
            tp_size=case.tp_size,
            fully_sharded=case.fully_sharded,
            max_loras=case.max_loras,
            max_rank=8 if self.dialect.impl == "vllm" else case.max_rank,
            adapters=tuple(AdapterSpec(slot, rank) for slot, rank in case.adapters),
            tokens=case.tokens,
            dtype=case.dtype,
        )
        return Scene(
            clause=self.failure.clause,
            anomaly=self.failure.anomaly,
            case=as_layer,
            weights=[self.tensors.weights.weight],
            biases=[],
            adapters=[] if self.bare else self.tensors.adapters,
            inputs=[self.given] * case.tp_size,
            slots=case.token_slots,
            expected=[[expected]] * case.tp_size,
            paths=("result",),
            bound=0.0,
            summed=False,
        )

    def parts(self) -> list[str]:
        """What is defined before the functions."""
        if self.configured:
            return [
                "\n".join(
                    ["with set_current_vllm_config(VllmConfig()):", f"{INDENT}PROCESSOR: Any = {self._processor()}"]
                )
            ]
        scaled = self.embeds and self.case.multiplier != 1
        return [_SCALED.format(multiplier=self.case.multiplier)] if scaled else []

    def _processor(self) -> str:
        factor = f", scale={float(self.case.multiplier)}" if self.case.multiplier != 1 else ""
        return f"LogitsProcessor({self.case.vocabulary}{factor})"

    def lines(self) -> list[str]:
        """From the layer to ``outputs``."""
        loads = []
        if not self.bare:
            loads = self._wrapped()
            for (slot, _), adapter in zip(self.case.adapters, self.tensors.adapters, strict=True):
                loads += self.dialect.load(self.scene, slot, adapter)
            loads += self.dialect.select(self.scene, self.case.token_slots)
        forward = self._forward()
        asked = [f"x = torch.tensor({one_line(self.given)})"] if self.embeds else [f"x = {tensor_text(self.given)}"]
        run = [*asked, f"outputs = {forward}.tolist()"]
        if self.failure.anomaly == "input-written":
            run = [*asked, forward, "outputs = x.tolist()"]
        return [*self._built(), *loads, *run]

    def _forward(self) -> str:
        layer = "layer" if self.bare else "lora"
        if self.configured:
            return f"{'PROCESSOR' if self.bare else 'lora'}(layer, x{', layer.bias' if self.case.bias else ''})"
        return f"{layer}(x)" if self.embeds else f"processor({layer}, x)"

    def _built(self) -> list[str]:
        case, context = self.case, self.dialect.context if self.case.tp_size > 1 else None
        alone = ["alone.all_gather = lambda tensor, dim: tensor"] if self.configured and case.tp_size == 1 else []
        name = "ScaledEmbedding" if self.embeds and case.multiplier != 1 else _CLASSES[case.layer]
        given: dict[str, object] = {"num_embeddings": case.vocabulary, "embedding_dim": case.width}
        given |= {"bias": True} if case.bias else {}
        given |= {"org_num_embeddings": case.original} if case.added else {}
        given |= {"padding_size": case.padding_size}
        lines = [f"with {context}:"] if context else alone
        lines.append((INDENT if context else "") + call(f"layer: Any = {name}", given))
        for what, tensor in (("weight", self.tensors.weights.weight), ("bias", self.tensors.weights.bias)):
            if tensor is not None:
                lines.append(call("layer.weight_loader", [f"layer.{what}", tensor_text(tensor)]))
        if self.dialect.impl == "vllm":
            lines.append("layer.quant_method.process_weights_after_loading(layer)")
        if not self.embeds and not self.configured:
            lines.append(f"processor: Any = {self._processor()}")
        return lines

    def _wrapped(self) -> list[str]:
        wrapping = self.dialect.wrap(self.scene)
        if self.configured:
            assert isinstance(self.dialect, Vllm)
            given = ["PROCESSOR", str(self.case.width), "layer.weight.dtype", "layer.weight.device", "mapping"]
            return [
                *wrapping[:-1],
                "mapping = layer.get_sharded_to_full_mapping()",
                call("lora: Any = LogitsProcessorWithLoRA", given),
                f"lora.create_lora_weights({self.dialect.slots(self.scene)}, config)",
            ]
        return [line.replace("wrap_layer(", "wrap_embedding(") if self.embeds else line for line in wrapping]

    def imports(self) -> set[str]:
        """Import lines."""
        heads, names = not self.embeds, {_CLASSES[self.case.layer]}
        if self.dialect.impl == "vllm":
            lines = self.dialect.imports(self.scene)
            lines |= {f"from {_VLLM_LAYERS}.vocab_parallel_embedding import {', '.join(names)}"}
            if heads:
                lines |= {
                    "from vllm.config import VllmConfig, set_current_vllm_config",
                    "from vllm.lora.layers import LogitsProcessorWithLoRA",
                    f"from {_VLLM_LAYERS}.logits_processor import LogitsProcessor",
                }
            unused = {"from_layer"} if heads else set()
            unused |= _FOR_ADAPTERS if self.bare else set()
            return {line for line in lines if line.rpartition(" ")[2] not in unused}
        names |= {"LogitsProcessor"} if heads else set()
        names |= {"tensor_parallel"} if self.case.tp_size > 1 else set()
        wrap = "wrap_layer" if heads else "wrap_embedding"
        names |= set() if self.bare else {"LayerAdapter", "LoRAConfig", "SubAdapter", "TokenBatch", wrap}
        return {f"from lora_compat import {', '.join(names)}"}
