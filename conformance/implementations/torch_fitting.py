"""What of a drawn case torch's layers can have: the rest is left out, as no torch layer has a notion of it.

That is ranks and families, packed outputs, a bias that is handed back, quant methods. Clauses that are about nothing
else are `TORCH_HAS_NO`'s.
"""

from __future__ import annotations

from dataclasses import replace

from strategies.cases import AdapterSpec, Case, LayerSpec, Quantization
from strategies.codec import Spec
from strategies.experts import ExpertsCase
from strategies.forwards import Forward
from strategies.programs import ModelAdapterSpec, Program
from strategies.subclasses import Loader, SubclassSpec
from strategies.target_questions import TargetQuestion
from strategies.trees import ModelSpec, ModuleKind, ModuleSpec
from strategies.vocabulary import VocabularyCase

TORCH_HAS_NO = {
    **dict.fromkeys(("MATH-6", "COMM-1", "COMM-2"), "torch's layers are of one rank"),
    **dict.fromkeys(("UNWRAP-1", "UNWRAP-3", "UNWRAP-4"), "a layer of torch has no quant method"),
    **dict.fromkeys(("MATH-11", "MATH-17", "WRAP-8"), "torch has no quantized linear layer"),
    "MATH-8": "a layer of torch has one weight, and no list of packed names",
}
_LEAFLESS = {
    ModuleKind.NN_LINEAR: ModuleKind.LOOKALIKE,
    ModuleKind.EMBEDDING: ModuleKind.LOOKALIKE,
    ModuleKind.HOLLOW: ModuleKind.LOOKALIKE,
}


def as_torch_has_it(spec: Spec) -> Spec:
    """``spec`` on layers of torch, on one rank."""
    if isinstance(spec, Case):
        return _torch_case(spec)
    if isinstance(spec, Program):
        return replace(spec, model=_torch_model(spec.model), adapters=_whole(spec.adapters), fully_sharded=False)
    if isinstance(spec, TargetQuestion):
        return replace(spec, model=_torch_model(spec.model))
    if isinstance(spec, VocabularyCase):
        ids = tuple(one % spec.vocabulary for one in spec.ids)
        whole = replace(spec, original=spec.vocabulary, added=0, for_original=False, ids=ids)
        return replace(whole, tp_size=1, fully_sharded=False)
    if isinstance(spec, ExpertsCase):
        return replace(spec, tp_size=1, expert_parallel=False, fully_sharded=False)
    return spec


def _torch_case(case: Case) -> Case:
    adapters = tuple(_one_part(adapter) for adapter in case.adapters)
    return replace(
        case,
        layer=_torch_layer(case.layer),
        subclass=_torch_subclass(case.subclass),
        tp_size=1,
        fully_sharded=False,
        packed=(),
        adapters=adapters,
        quantization=Quantization.NONE,
    )


def _torch_layer(layer: LayerSpec) -> LayerSpec:
    """A layer of one weight that returns a tensor, with its bias added."""
    return LayerSpec(
        input_size=layer.input_size, output_sizes=(sum(layer.output_sizes),), bias=layer.bias, return_bias=False
    )


def _torch_subclass(subclass: SubclassSpec) -> SubclassSpec:
    """The class without a weight loader; one that takes the first of two results has but one here."""
    bare = subclass.forward is Forward.BARE_TENSOR
    return replace(subclass, loader=Loader.INHERITED, forward=Forward.PASS_THROUGH if bare else subclass.forward)


def _one_part(adapter: AdapterSpec) -> AdapterSpec:
    return replace(adapter, present=(True,), fused=False, ranks=())


def _whole(adapters: tuple[ModelAdapterSpec, ...]) -> tuple[ModelAdapterSpec, ...]:
    return tuple(
        replace(one, parts=tuple(None if part is None else _one_part(part) for part in one.parts)) for one in adapters
    )


def _torch_model(model: ModelSpec) -> ModelSpec:
    return ModelSpec(tuple(_torch_module(module) for module in model.modules))


def _torch_module(module: ModuleSpec) -> ModuleSpec:
    """A layer of torch; where it was none that carries LoRA, one that none of torch's is either."""
    if module.kind is not ModuleKind.LINEAR:
        return replace(module, kind=_LEAFLESS.get(module.kind, module.kind))
    layer, subclass = _torch_layer(module.layer), _torch_subclass(module.subclass)
    return replace(module, layer=layer, subclass=subclass, packed=(), children=())
