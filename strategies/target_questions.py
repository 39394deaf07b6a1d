"""Questions about target modules: a model, and what the deployment names."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy, composite

from strategies.choices import sampled
from strategies.codec import Spec
from strategies.tree_drawing import FOREIGN, models
from strategies.trees import ModelSpec, ModuleKind


@dataclass(frozen=True, slots=True, repr=False)
class TargetQuestion(Spec):
    """Which modules of ``model`` are replaced where the deployment names these; None: it names none in particular."""

    model: ModelSpec = ModelSpec()  # noqa: RUF009 - frozen
    targets: tuple[str, ...] | None = None


# Parts of names, at no dot: they match nothing. (Two last parts of a name are left out: PEFT lets them match, vLLM
# does not, and the contract does not say.)
NEAR_MISSES = ("proj", "fc", "o_pro", "gate_", "qkv", "rs.0.mlp.gate", "layers")


# Modules that hold layers, and are named like one, are the most easily mistaken.
_KINDS = (ModuleKind.HOLDER, *FOREIGN, ModuleKind.HOLDER)
_PLAIN = models(plain=True, aliases=(False,), towers=False, max_depth=0, others=(1, 2), other_kinds=_KINDS)


@composite
def target_questions(
    draw: DrawFn, *, trees: SearchStrategy[ModelSpec] = _PLAIN, near_misses: bool = True
) -> TargetQuestion:
    """Targets taken from the model's own names: last parts, whole names, children, parents; and near misses."""
    model = draw(trees)
    # The last part of a name is what most deployments give.
    lasts = tuple(name for name in _speakable(model) if "." not in name)
    choices = lasts + _speakable(model) + (NEAR_MISSES if near_misses else ())
    targets = draw(st.lists(sampled(choices, "target"), min_size=1, max_size=3, unique=True))
    return TargetQuestion(model, tuple(targets))


@cache
def _speakable(model: ModelSpec) -> tuple[str, ...]:
    """Every target that names a layer of ``model`` and nothing that cannot carry LoRA."""
    parents = {child: parent for parent, children in model.packing.items() for child in children}
    found: dict[str, None] = {}
    for module in model.linears:
        last = module.name.rpartition(".")[2]
        found |= dict.fromkeys((last, module.name, *module.children, *(p for c, p in parents.items() if c == last)))
    leaves = [m for m in model.modules if m.kind not in (ModuleKind.LINEAR, ModuleKind.HOLDER)]
    others = {part for module in leaves for part in (module.name, _last(module.name))}
    return tuple(name for name in found if name not in others) or ("layers",)


def _last(name: str) -> str:
    return name.rpartition(".")[2]


@composite
def misplaced_targets(draw: DrawFn) -> TargetQuestion:
    """Targets that name a module which cannot carry LoRA, by its whole name or the last part, and maybe a layer."""
    every = tuple(kind for kind in ModuleKind if kind not in (ModuleKind.LINEAR, ModuleKind.HOLDER))
    model = draw(models(plain=True, aliases=(False,), towers=False, max_depth=0, others=(1, 2), other_kinds=every))
    other = draw(sampled(tuple(module for module in model.modules if module.kind is not ModuleKind.LINEAR)))
    targets = [draw(sampled((_last(other.name), other.name)))]
    if draw(st.booleans()):
        targets.insert(0, draw(sampled(_speakable(model))))
    return TargetQuestion(model, tuple(targets))
