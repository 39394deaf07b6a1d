"""Simpler neighbours of a whole model and its adapter; the largest simplifications first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace

from strategies.cases import Dtype
from strategies.models.adapters import ModelAdapter
from strategies.models.cases import ModelCase
from strategies.models.configs import ConfigChoices


def simpler_models(case: ModelCase) -> Iterator[ModelCase]:
    """Every case that is plainer than ``case`` in one part: one rank, one target, the type's own configuration."""
    plain = ConfigChoices()
    for changes in (
        {"config": plain},
        {"tp_size": 1, "fully_sharded": False},
        {"tp_size": min(2, case.tp_size)},
        {"fully_sharded": False},
        {"dtype": Dtype.FLOAT32},
        {"seed": 0},
    ):
        changed = replace(case, **changes)
        if changed != case:
            yield changed
    for field in fields(ConfigChoices):
        config = replace(case.config, **{field.name: getattr(plain, field.name)})
        if config != case.config:
            yield replace(case, config=config)
    yield from (replace(case, adapter=adapter) for adapter in _adapters(case.adapter))


def _adapters(adapter: ModelAdapter) -> Iterator[ModelAdapter]:
    if len(adapter.modules) + len(adapter.parameters) > 2:
        yield from (replace(adapter, modules=(one,), parameters=()) for one in adapter.modules)
        yield from (replace(adapter, modules=(), parameters=(one,)) for one in adapter.parameters)
    for at in range(len(adapter.modules)):
        yield replace(adapter, modules=(*adapter.modules[:at], *adapter.modules[at + 1 :]))
    for at in range(len(adapter.parameters)):
        yield replace(adapter, parameters=(*adapter.parameters[:at], *adapter.parameters[at + 1 :]))
    plain = ModelAdapter()
    for changes in (
        {"ranks": ()},
        {"alphas": ()},
        {"saved": ()},
        {"feature": ""},
        {"layers": ()},
        {"rank": plain.rank, "alpha": plain.alpha, "rslora": False},
        {"alpha": float(adapter.rank), "rslora": False},
    ):
        changed = replace(adapter, **changes)
        if changed != adapter:
            yield changed
