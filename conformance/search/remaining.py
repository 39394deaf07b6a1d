"""What else a model's case shows beside the failure that is reported: the other causes that a whole adapter has."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from conformance.judging.facts import Place
from conformance.judging.model_facts import Added, Lost
from conformance.judging.verdicts import Violation
from conformance.subjects.models.keys import module_of
from strategies.models.cases import ModelCase


def remaining(found: Violation, also: Iterable[Violation] = ()) -> ModelCase | None:
    """The case with the targets left alone that are wrong in the same role, or in one of ``also``; None where nothing
    remains of it.

    Of one whose stage takes no such adapter the rest is asked of all layers on one rank.
    """
    case = found.case
    if not isinstance(case, ModelCase):
        return None
    modules = [module for one in (found, *also) for module in map(module_of, _keys(one)) if module]
    if not modules:
        return None if case.stage is None else replace(case, stages=1, stage=None)
    adapter = case.adapter.without(tuple(name for module in modules for name in (module, f"{module}.weight")))
    return replace(case, adapter=adapter) if adapter != case.adapter and adapter.modules + adapter.parameters else None


def _keys(found: Violation) -> tuple[str, ...]:
    fact = found.fact
    return (*fact.keys, *fact.alike) if isinstance(fact, Lost) else (fact.tensor,) if isinstance(fact, Added) else ()


def in_other_roles(found: Violation) -> list[Violation]:
    """What has vanished of the same file in other roles, the first of each with the others of its own."""
    if not isinstance(found.fact, Lost):
        return []
    by_role: dict[str, list[tuple[bool, tuple[str, ...]]]] = {}
    for role, among_others, keys in found.fact.more:
        by_role.setdefault(role, []).append((among_others, keys))
    return [
        Violation(found.anomaly, Lost(*of_role[0][::-1], alike=_last(of_role[1:])), found.case, Place(role=role))
        for role, of_role in by_role.items()
    ]


def _last(lost: Iterable[tuple[bool, tuple[str, ...]]]) -> tuple[str, ...]:
    return tuple(keys[-1] for _, keys in lost)
