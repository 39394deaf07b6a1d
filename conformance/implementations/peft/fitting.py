"""What of a case PEFT's adapters can have, and what they have no notion of.

There is no slot with a largest rank, no other adapter for each token of one sample, no capacity, and so nothing is
evicted or pinned. Clauses that are about nothing else are `PEFT_HAS_NO`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from conformance.implementations.torch_fitting import TORCH_HAS_NO
from strategies.cases import Case, Layout
from strategies.codec import Spec
from strategies.experts import ExpertsCase
from strategies.programs import Misfit, Program, StepKind
from strategies.target_questions import TargetQuestion
from strategies.trees import ModelSpec, ModuleKind
from strategies.vocabulary import VocabularyCase

_NO_WARM_UP = "PEFT has no slots of a fixed rank, and nothing that is warmed up with a dummy adapter"
PEFT_HAS_NO = {
    **TORCH_HAS_NO,
    **dict.fromkeys(("MATH-4", *(f"RANK-{number}" for number in range(1, 7))), _NO_WARM_UP),
    "LIFE-2": "PEFT has no capacity: no adapter is evicted, pinned, or turned away for want of a place",
}


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
