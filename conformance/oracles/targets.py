"""Which modules of a model a deployment names: the contract's rule, word for word."""

from __future__ import annotations

from strategies.target_questions import TargetQuestion
from strategies.trees import ModuleKind, ModuleSpec


def is_named(question: TargetQuestion, module: ModuleSpec, target: str) -> bool:
    """Whether ``target`` names ``module``."""
    packing = question.model.packing
    return any(
        target in (name, last) or target in packing.get(last, ()) or last in packing.get(target, ())
        for name in module.names
        for last in [name.rpartition(".")[2]]
    )


def targeted(question: TargetQuestion) -> list[ModuleSpec]:
    """The modules that the deployment names; all layers, and nothing else, where it names none in particular."""
    given = question.targets
    if given is None:
        return list(question.model.linears)
    return [one for one in question.model.modules if any(is_named(question, one, target) for target in given)]


def layers_of(question: TargetQuestion) -> list[str]:
    """Those that are to be wrapped."""
    return [one.name for one in targeted(question) if one.kind is ModuleKind.LINEAR]


def culprits_of(question: TargetQuestion) -> list[ModuleSpec]:
    """Those that cannot be wrapped; what holds modules is no culprit, as its name may be meant for them."""
    return [one for one in targeted(question) if one.kind not in (ModuleKind.LINEAR, ModuleKind.HOLDER)]
