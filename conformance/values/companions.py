"""The numbers of the layers of other kinds that stand in a program's model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from conformance.implementations.dtypes import torch_dtype
from conformance.values import experts, vocabulary
from lora_compat.adapters import SubAdapter
from lora_compat.model_adapters import ModuleAdapter
from strategies.experts import ExpertsAdapterSpec, ExpertsCase
from strategies.programs import Companion, Program
from strategies.vocabulary import VocabularyCase, VocabularyLayer

_IDS, _EXPERTS, _MOST = 5, 2, 4  # ids, experts, and the largest rank whose numbers stay exact


@dataclass(frozen=True, slots=True)
class CompanionValues:
    """One companion as a case of its family, whose slots are the manager's, and whose tokens are the program's."""

    kind: Companion
    case: VocabularyCase | ExpertsCase
    tensors: vocabulary.VocabularyTensors | experts.ExpertsTensors

    @property
    def name(self) -> str:
        """Its name in the model."""
        return f"companions.{self.kind.value}"

    def adapter(self, number: int) -> dict[str, ModuleAdapter]:
        """An adapter's part, by checkpoint module."""
        if isinstance(self.tensors, experts.ExpertsTensors):
            return {
                f"{self.name}.{index}.{name}": ModuleAdapter(part.lora_a, part.lora_b, experts.SCALING)
                for index, one in enumerate(self.tensors.adapters[number].experts)
                if one is not None
                for name, part in zip(("gate_proj", "up_proj", "down_proj"), (*one.gate_up, one.down), strict=True)
                if part is not None
            }
        adapter = self.tensors.adapters[number]
        part = adapter.parts[0]
        assert isinstance(part, SubAdapter)
        assert isinstance(self.case, VocabularyCase)
        dtype = torch_dtype(self.case.dtype)
        return {self.name: ModuleAdapter(part.lora_a.to(dtype), part.lora_b.to(dtype), adapter.scaling)}


def companions_of(program: Program) -> list[CompanionValues]:
    """The program's companions."""
    return [_companion(program, kind) for kind in program.companions]


def _companion(program: Program, kind: Companion) -> CompanionValues:
    tokens, size = program.batches[0], program.model.tp_size
    ranks = [1 + number % min(_MOST, program.max_rank) for number in range(len(program.adapters))]
    shared: dict[str, Any] = {
        "tp_size": size,
        "fully_sharded": program.fully_sharded,
        "tokens": tokens,
        "seed": program.seed,
    }
    if kind is Companion.EXPERTS:
        case = ExpertsCase(
            experts=_EXPERTS,
            hidden_size=2,
            intermediate_size=2 * size,  # of one alone the ReLU often leaves nothing
            adapters=tuple(ExpertsAdapterSpec(rank=rank, experts=(True,) * _EXPERTS) for rank in ranks),
            routing=tuple((index % _EXPERTS,) for index in range(len(tokens))),
            **shared,
        )
        return CompanionValues(kind, case, experts.tensors_of(case))
    layer = VocabularyLayer.EMBEDDING if kind is Companion.EMBEDDING else VocabularyLayer.LM_HEAD
    of_ids = VocabularyCase(
        layer=layer,
        original=_IDS,
        width=3,
        adapters=tuple((0, rank) for rank in ranks),
        ids=tuple(index % _IDS for index in range(len(tokens))),
        dtype=program.dtype,
        **shared,
    )
    return CompanionValues(kind, of_ids, vocabulary.tensors_of(of_ids))
