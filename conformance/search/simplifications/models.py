"""Simpler neighbours of a whole model and its adapter; the largest simplifications first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from conformance.search.simplifications.parts import by_default, changed, one_less
from strategies.models.adapters import ModelAdapter
from strategies.models.cases import ModelCase


def simpler_models(case: ModelCase) -> Iterator[ModelCase]:
    """Every case that is plainer than ``case`` in one part: one rank, one target, the type's own configuration."""
    yield from by_default(case, "config", "deployment", "stages")
    yield from changed(case, {"tp_size": 1, "fully_sharded": False}, {"tp_size": min(2, case.tp_size)})
    yield from by_default(case, "fully_sharded", "dtype", "seed")
    yield from (replace(case, config=config) for config in by_default(case.config))
    yield from (replace(case, deployment=one) for one in by_default(case.deployment))
    yield from (replace(case, adapter=adapter) for adapter in _adapters(case.adapter))


def _adapters(adapter: ModelAdapter) -> Iterator[ModelAdapter]:
    modules, parameters = adapter.modules, adapter.parameters
    if len(modules) + len(parameters) > 2:
        yield from (replace(adapter, modules=(one,), parameters=()) for one in modules)
        yield from (replace(adapter, modules=(), parameters=(one,)) for one in parameters)
    yield from (replace(adapter, modules=left) for left in one_less(modules))
    yield from (replace(adapter, parameters=left) for left in one_less(parameters))
    yield from by_default(adapter, "ranks", "alphas", "saved", "feature", "layers")
    plain = ModelAdapter()
    yield from changed(
        adapter,
        {"rank": plain.rank, "alpha": plain.alpha, "rslora": False},
        {"alpha": float(adapter.rank), "rslora": False},
    )
