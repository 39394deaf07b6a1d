"""Tests of embeddings and LM heads over a vocabulary (MATH-14, MATH-15)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from conformance.implementations.dtypes import torch_dtype
from conformance.implementations.protocol import Deployment
from conformance.oracles.vocabulary import dense
from conformance.regressions.entries import StoredFailure
from conformance.test_files.dialects import Dialect
from conformance.test_files.layout import CannotWrite
from conformance.test_files.literals import INDENT, call, ids_text, tensor_text
from conformance.test_files.script import Script, compared, shown, shown_of
from conformance.values.vocabulary import VocabularyTensors, tensors_of
from strategies.vocabulary import VocabularyCase, VocabularyLayer

_CLASSES = {VocabularyLayer.EMBEDDING: "VocabParallelEmbedding", VocabularyLayer.LM_HEAD: "ParallelLMHead"}
_SCALED = """
class ScaledEmbedding(VocabParallelEmbedding):
    def forward(self, input_: torch.Tensor) -> Any:
        return super().forward(input_) * {}
""".strip("\n")


def script_of(failure: StoredFailure, case: VocabularyCase, dialect: Dialect) -> Script:
    """What the clause does with the layer.

    Raises:
        CannotWrite: nothing of this library is judged by such a case.
    """
    if dialect.impl == "vllm" and case.added:
        raise CannotWrite("vLLM's loaders load no id that was added")
    form = _Form(failure.anomaly, case, tensors_of(case), dialect, case.reused and failure.sighting.after_a_reset)
    return Script(
        lines=[*form.built(), *([form.asked, *form.outputs()] if form.bare else form.adapted(failure.clause))],
        returns="outputs",
        verdict=compared([shown_of(form.expected(), case.tokens)] * case.tp_size, case.tp_size),
        definitions=form.definitions(),
        ranks=case.tp_size,
        reduces=form.embeds,
        dtype=case.dtype.of_tensors,
    )


@dataclass(frozen=True, slots=True)
class _Form:
    anomaly: str
    case: VocabularyCase
    tensors: VocabularyTensors
    dialect: Dialect
    resets: bool

    @property
    def embeds(self) -> bool:
        return self.case.layer is VocabularyLayer.EMBEDDING

    @property
    def configured(self) -> bool:
        """Whether it takes vLLM's logits processor, which asks for an engine's configuration and for a matrix."""
        return not self.embeds and self.dialect.impl == "vllm"

    @property
    def bare(self) -> bool:
        """Whether it is the layer without adapters that is wrong."""
        return self.anomaly == "base-changed"

    @property
    def given(self) -> Tensor:
        ids = torch.tensor(self.case.ids, dtype=torch.int64)
        return self._batched(ids if self.embeds else self.tensors.hidden)

    def expected(self) -> Tensor:
        right = self._batched(dense(self.case, self.tensors, adapted=not (self.bare or self.resets)))
        return self.given if self.anomaly == "input-written" else right

    def _batched(self, tensor: Tensor) -> Tensor:
        return tensor[None] if self.case.two_dimensions and not self.configured else tensor

    def definitions(self) -> list[str]:
        """What is defined before the functions."""
        if self.configured:
            return [f"with set_current_vllm_config(VllmConfig()):\n{INDENT}PROCESSOR: Any = {self._processor()}"]
        scaled = self.embeds and self.case.multiplier != 1
        return [_SCALED.format(self.case.multiplier)] if scaled else []

    def _processor(self) -> str:
        factor = f", scale={float(self.case.multiplier)}" if self.case.multiplier != 1 else ""
        return f"LogitsProcessor({self.case.vocabulary}{factor})"

    def built(self) -> list[str]:
        """``layer``, loaded, and ``processor`` where the library has one for each model."""
        case, context = self.case, self.dialect.context if self.case.tp_size > 1 else None
        alone = ["alone.all_gather = lambda tensor, dim: tensor"] if self.configured and case.tp_size == 1 else []
        given: dict[str, object] = {"num_embeddings": case.vocabulary, "embedding_dim": case.width}
        given |= {"bias": True} if case.bias else {}
        given |= {"org_num_embeddings": case.original} if case.added else {}
        scaled = self.embeds and case.multiplier != 1
        made = call("ScaledEmbedding" if scaled else _CLASSES[case.layer], given | {"padding_size": case.padding_size})
        lines = [f"with {context}:", f"{INDENT}layer: Any = {made}"] if context else [*alone, f"layer: Any = {made}"]
        for what, tensor in (("weight", self.tensors.weights.weight), ("bias", self.tensors.weights.bias)):
            lines += [] if tensor is None else [f"layer.weight_loader(layer.{what}, {tensor_text(tensor)})"]
        if self.dialect.impl == "vllm":
            lines.append("layer.quant_method.process_weights_after_loading(layer)")
        return lines if self.embeds or self.configured else [*lines, f"processor: Any = {self._processor()}"]

    def adapted(self, clause: str) -> list[str]:
        """From ``lora``, with its adapters and the tokens' slots, to ``outputs``."""
        case = self.case
        most = 8 if self.dialect.impl == "vllm" else case.max_rank
        deployment = Deployment(case.max_loras, most, case.fully_sharded, (), torch_dtype(case.dtype))
        deployment = self.dialect.settled(deployment, clause, case.token_slots)
        lines = self.dialect.wrap(deployment, "wrap_embedding" if self.embeds else "wrap_layer")
        if self.configured:
            given = f"PROCESSOR, {case.width}, layer.weight.dtype, layer.weight.device, mapping"
            lines = [
                *lines[:-1],
                "mapping = layer.get_sharded_to_full_mapping()",
                f"lora: Any = LogitsProcessorWithLoRA({given})",
                f"lora.create_lora_weights({deployment.max_loras}, config)",
            ]
        selected = self.dialect.select(deployment, case.token_slots)
        loads = [
            line
            for (slot, _), adapter in zip(case.adapters, self.tensors.adapters, strict=True)
            for line in self.dialect.load(slot, adapter)
        ]
        if self.tensors.former is None:
            return [*lines, *loads, *selected, self.asked, *self.outputs()]
        for slot, _ in case.adapters:
            lines += self.dialect.load(slot, self.tensors.former)
        resets = [self.forward, *(f"lora.reset_lora({slot})" for slot, _ in case.adapters)] if self.resets else []
        return [*lines, *selected, self.asked, self.forward, *loads, *resets, *self.outputs()]

    @property
    def asked(self) -> str:
        """``x``."""
        return f"x = {(ids_text if self.embeds else tensor_text)(self.given)}"

    @property
    def forward(self) -> str:
        """What is done with ``x``."""
        if self.configured:
            return f"{'PROCESSOR' if self.bare else 'lora'}(layer, x{', layer.bias' if self.case.bias else ''})"
        layer = "layer" if self.bare else "lora"
        return f"{layer}(x)" if self.embeds else f"processor({layer}, x)"

    def outputs(self) -> list[str]:
        """From ``x`` to ``outputs``."""
        if self.anomaly == "input-written":
            return [self.forward, "outputs = x.tolist()"]
        return [f"outputs = {shown(self.forward, self.case.tokens)}"]
