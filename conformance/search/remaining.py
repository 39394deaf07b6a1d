"""What remains of a model's case without the targets that failed: the other causes that a whole adapter shows."""

from __future__ import annotations

from dataclasses import replace

from conformance.judging.model_facts import Added, Lost
from conformance.judging.verdicts import Violation
from conformance.subjects.models.keys import module_of
from strategies.models.cases import ModelCase


def remaining(found: Violation) -> ModelCase | None:
    """The case with the targets left alone that are wrong in the same role; None where nothing remains of it.

    Of one whose stage takes no such adapter the rest is asked of all layers on one rank.
    """
    case, fact = found.case, found.fact
    keys = (*fact.keys, *fact.alike) if isinstance(fact, Lost) else (fact.tensor,) if isinstance(fact, Added) else ()
    modules = [module for module in map(module_of, keys) if module]
    if not isinstance(case, ModelCase):
        return None
    if not modules:
        return None if case.stage is None else replace(case, stages=1, stage=None)
    adapter = case.adapter.without(tuple(name for module in modules for name in (module, f"{module}.weight")))
    return replace(case, adapter=adapter) if adapter != case.adapter and adapter.modules + adapter.parameters else None
