"""What of a drawn case torch's layers can have, and PEFT can serve: the rest of it is drawn in vain, and left out.

Two steps: `as_torch_has_it` leaves out what a torch layer has no notion of (ranks, families, packed outputs, a bias
that is handed back, quant methods), `as_peft_serves_it` what PEFT's adapters have none of (a slot with a largest rank,
another adapter for each token of one sample, places, eviction and pins). Clauses that are about nothing else are
`NO_NOTION`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from strategies.cases import AdapterSpec, Case, LayerSpec, Layout, Quantization
from strategies.codec import Spec
from strategies.experts import ExpertsCase
from strategies.forwards import Forward
from strategies.programs import Misfit, ModelAdapterSpec, Program, StepKind
from strategies.subclasses import Loader, SubclassSpec
from strategies.target_questions import TargetQuestion
from strategies.trees import ModelSpec, ModuleKind, ModuleSpec
from strategies.vocabulary import VocabularyCase

_ONE_RANK = "PEFT serves one rank here, and torch's layers are not sharded"
_NO_QUANT_METHOD = "a layer of torch has no quant method"
_NO_WARM_UP = "PEFT has no slots of a fixed rank, and nothing that is warmed up with a dummy adapter"
_NOT_QUANTIZED = (
    "torch has no quantized linear layer; those that PEFT knows are other packages', most of them for GPUs"
)
NO_NOTION = {
    **dict.fromkeys(("MATH-6", "COMM-1", "COMM-2"), _ONE_RANK),
    **dict.fromkeys(("UNWRAP-1", "UNWRAP-3", "UNWRAP-4"), _NO_QUANT_METHOD),
    **dict.fromkeys(("MATH-4", *(f"RANK-{number}" for number in range(1, 7))), _NO_WARM_UP),
    **dict.fromkeys(("MATH-11", "MATH-17", "WRAP-8"), _NOT_QUANTIZED),
    "MATH-8": "a layer of torch has one weight, and no list of packed names",
    "LIFE-2": "PEFT has no capacity: no adapter is evicted, pinned, or turned away for want of a place",
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


def as_peft_serves_it(spec: Spec) -> Spec:
    """``spec`` as far as PEFT's adapters can have it."""
    if isinstance(spec, Case):
        return replace(spec, tokens=_of_samples(spec.tokens, spec.layout), nesting=())
    if isinstance(spec, VocabularyCase) and spec.two_dimensions:
        return replace(spec, tokens=spec.tokens[:1] * len(spec.tokens))
    if isinstance(spec, ExpertsCase):
        return replace(spec, tokens=spec.tokens[:1] * len(spec.tokens))
    if isinstance(spec, TargetQuestion):
        return replace(spec, targets=spec.targets or None)  # an empty list is an error of PEFT's, which says so
    return _peft_program(spec) if isinstance(spec, Program) else spec


def _peft_program(program: Program) -> Program:
    """A program with a place for every adapter.

    The targets in an adapter's files are last parts of names, and PEFT refuses one that names anything but a layer
    (TARGET-1 and WRAP-6 are about that): then adapters are not on disk.
    """
    adapters = tuple(
        replace(one, misfit=Misfit.WIDTH) if one.misfit is Misfit.RANK else one for one in program.adapters
    )
    return replace(
        program,
        from_disk=program.from_disk and not _names_more(program.model),
        steps=tuple(step for step in program.steps if step.kind is not StepKind.PIN),
        adapters=adapters,
        max_loras=max(1, len(adapters)),
        max_adapters=max(1, len(adapters)),
        evict=False,
    )


def _names_more(model: ModelSpec) -> bool:
    """Whether the last part of a layer's name is that of something else, or of what holds a layer."""
    layers = {part for module in model.linears for name in module.names for part in name.split(".")[-1:]}
    holders = {part for module in model.modules for name in module.names for part in name.split(".")[:-1]}
    others = {module.name.rpartition(".")[2] for module in model.modules if module.kind is not ModuleKind.LINEAR}
    return bool(layers & (holders | others))


def _of_samples(tokens: Sequence[int], layout: Layout) -> tuple[int, ...]:
    """One adapter for each sample: an input of more dimensions has several tokens in one."""
    if layout is Layout.FOUR_D or (layout is Layout.THREE_D and len(tokens) % 2):
        return tuple(tokens[:1]) * len(tokens)
    if layout is Layout.THREE_D:
        half = len(tokens) // 2
        return tuple(tokens[:1]) * half + tuple(tokens[half : half + 1]) * half
    return tuple(tokens)


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
