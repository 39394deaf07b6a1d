"""The tensors of a program's model and adapters.

A layer of a tree is a `Case` of its own, so its tensors and its oracle are those of the single-layer clauses.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from torch import nn

from conformance.implementations.dtypes import torch_dtype
from conformance.values.companions import CompanionValues, companions_of
from conformance.values.linear import CaseTensors, values_of
from lora_compat.model_adapters import Adapter, ModuleAdapter
from strategies.cases import AdapterSpec, Case
from strategies.programs import Misfit, ModelAdapterSpec, Program
from strategies.trees import ModelSpec

ABSENT = AdapterSpec(present=(False,))


def layer_case(program: Program, index: int) -> Case:
    """Layer ``index`` of the program's model with all adapters, as a case; its tokens are those of the first batch."""
    module = program.model.linears[index]
    adapters = tuple(adapter.parts[index] or ABSENT for adapter in program.adapters)
    return Case(
        layer=module.layer,
        subclass=module.subclass,
        tp_size=program.model.tp_size,
        fully_sharded=program.fully_sharded,
        max_loras=program.max_loras,
        max_rank=program.max_rank,
        packed=module.packed,
        adapters=tuple(_of_layer(part, module.packed) for part in adapters),
        tokens=program.batches[0],
        dtype=program.dtype,
        seed=program.seed + index,
    )


def _of_layer(part: AdapterSpec, packed: tuple[int, ...]) -> AdapterSpec:
    return replace(part, present=(False,) * max(1, len(packed))) if part is ABSENT else part


@dataclass(slots=True)
class ProgramValues:
    """The tensors of a program: its layers as cases, and its adapters by checkpoint module."""

    program: Program
    cases: list[Case] = field(init=False)
    tensors: list[CaseTensors] = field(init=False)
    companions: list[CompanionValues] = field(init=False)

    def __post_init__(self) -> None:
        self.cases = [layer_case(self.program, index) for index in range(len(self.program.model.linears))]
        self.tensors = [values_of(case) for case in self.cases]
        self.companions = companions_of(self.program)

    def adapter(self, number: int) -> Adapter:
        """The adapter as it is handed over: tensors of its own, one misfit among them if it is to have one."""
        spec = self.program.adapters[number]
        modules: dict[str, ModuleAdapter] = {}
        for companion in self.companions:
            modules |= companion.adapter(number)
        for index in spec.adapted:
            loaded = self.tensors[index].adapters[number]
            for name, part in zip(self._names(index, spec), loaded.parts, strict=True):
                if part is not None:
                    dtype = torch_dtype(self.cases[index].dtype)
                    modules[name] = ModuleAdapter(part.lora_a.to(dtype), part.lora_b.to(dtype), loaded.scaling)
        if spec.misfit is not Misfit.NONE:
            last = list(modules)[-1]
            modules[last] = misfitting(modules[last], spec.misfit, self.program.max_rank)
        return Adapter(modules, source=f"adapter {number + 1}")

    def parts(self, number: int) -> dict[str, AdapterSpec]:
        """The adapter's rank and scaling by checkpoint module."""
        spec = self.program.adapters[number]
        return {
            name: part.part(number)
            for index, part in enumerate(spec.parts)
            if part is not None
            for number, name in enumerate(self._names(index, spec))
        }

    def _names(self, index: int, spec: ModelAdapterSpec) -> tuple[str, ...]:
        """What the adapter calls its parts of layer ``index``: a fused tensor goes by the layer's own name."""
        module, part = self.program.model.linears[index], spec.parts[index]
        if part is not None and part.fused:
            return (module.alias if spec.by_alias and module.alias else module.name,)
        return module.checkpoint_names(by_alias=spec.by_alias)


def misfitting(module: ModuleAdapter, misfit: Misfit, max_rank: int) -> ModuleAdapter:
    """``module`` with tensors that do not fit its layer, or each other."""
    a, b = module.lora_a, module.lora_b
    if misfit is Misfit.RANK:
        extra = max_rank + 1 - a.shape[0]
        a, b = nn.functional.pad(a, (0, 0, 0, extra), value=1.0), nn.functional.pad(b, (0, extra), value=1.0)
    elif misfit is Misfit.WIDTH:
        a = nn.functional.pad(a, (0, 1), value=1.0)
    elif misfit is Misfit.ROWS:
        b = nn.functional.pad(b, (0, 0, 0, 1), value=1.0)
    elif misfit is Misfit.NARROW:
        a = a[:, :-1]
    elif misfit is Misfit.SHORT:
        b = b[:-1]
    else:
        b = nn.functional.pad(b, (0, 1), value=1.0)
    return ModuleAdapter(a.contiguous(), b.contiguous(), module.scaling)


def in_tower(model: ModelSpec, index: int) -> bool:
    """Whether layer ``index`` has its tokens mapped with the tower's; its first name in a walk decides."""
    return bool(model.tower) and model.linears[index].names[0].startswith(model.tower + ".")
