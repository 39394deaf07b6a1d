"""Which parts of a case do not matter, and what is one root cause.

`indifferent_parts` changes the parts that are left of a settled case, away from their values: a part that can be
changed in every way tried, and the same failure stays, does not matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from conformance.judging.verdicts import Violation
from conformance.search.settling import Still, manner
from lora_compat.families import Family
from strategies.cases import DTYPES, AdapterSpec, Case, Regime
from strategies.classes import possible_forwards
from strategies.subclasses import Constructor, Loader, Mixins


def indifferent_parts(case: Case, still: Still) -> tuple[str, ...]:
    """The parts of ``case`` that can be changed without changing the failure."""
    return tuple(name for name, changed in _alternatives(case) if changed and all(map(still, changed)))


def cause_of(found: Violation, case: Case, indifferent: tuple[str, ...]) -> str:
    """Equal for failures of one root cause: the anomaly, and the class features that matter."""
    features = {
        "family": case.layer.family.value,
        "forward": case.subclass.forward.value,
        "weight loader": case.subclass.loader.value,
        "sharding of the adapters": str(case.fully_sharded),
        "disable_tp": str(case.layer.disable_tp),
    }
    mattering = [f"{name} {value}" for name, value in features.items() if name not in indifferent]
    return "; ".join([manner(found), *mattering])


def _alternatives(case: Case) -> Iterator[tuple[str, list[Case]]]:
    """Each part of a case by its name, with the case changed in that part."""
    layer, subclass = case.layer, case.subclass
    derived = subclass if subclass.depth else replace(subclass, depth=1)
    yield "dtype", [replace(case, dtype=dtype) for dtype in DTYPES if dtype is not case.dtype]
    yield "values", [replace(case, seed=case.seed + 1), replace(case, seed=case.seed + 2)]
    yield "regime", [replace(case, regime=Regime.ROUNDED)] if case.regime is Regime.EXACT else []
    yield "family", [replace(case, layer=one) for one in _other_families(case)]
    yield "bias", [replace(case, layer=replace(layer, bias=not layer.bias))]
    yield (
        "inheritance depth",
        [replace(case, subclass=replace(subclass, depth=depth)) for depth in {1, 2, 3} - {subclass.depth}],
    )
    if subclass.depth:
        yield (
            "forward",
            [
                replace(case, subclass=replace(subclass, forward=forward))
                for forward in possible_forwards(layer)
                if forward is not subclass.forward
            ][:4],
        )
    yield "mixins", [replace(case, subclass=replace(derived, mixins=mixins)) for mixins in Mixins][1:]
    yield "constructor", [replace(case, subclass=replace(derived, constructor=one)) for one in Constructor][1:]
    yield "weight loader", [replace(case, subclass=replace(derived, loader=Loader.PASS_THROUGH))]
    yield "input size", [_widened(case)] if layer.family is not Family.QKV else []
    yield "number of tokens", [replace(case, tokens=case.tokens * 2)] if case.tokens else []
    yield "rank of the adapter", [_ranked(case, 2), _ranked(case, 3)]
    yield "scaling", [_scaled(case, 2.0), _scaled(case, 0.5)]
    yield "max_loras", [replace(case, max_loras=case.max_loras + 1)]
    yield "max_lora_rank", [replace(case, max_rank=2 * case.max_rank * case.tp_size)]
    if case.tp_size > 1:
        yield "sharding of the adapters", [replace(case, fully_sharded=not case.fully_sharded)]
        yield "disable_tp", [replace(case, layer=replace(layer, disable_tp=not layer.disable_tp))]
    else:
        yield "sharding of the adapters", [replace(case, fully_sharded=True)]
        yield "disable_tp", [replace(case, layer=replace(layer, disable_tp=True))]


def _other_families(case: Case) -> list:  # type: ignore[type-arg]
    single = (Family.REPLICATED, Family.COLUMN, Family.ROW)
    layer = case.layer
    if layer.family not in single:
        return []
    plain = replace(layer, gather_output=False, input_is_parallel=True, reduce_results=True)
    return [replace(plain, family=family) for family in single if family is not layer.family]


def _widened(case: Case) -> Case:
    return replace(case, layer=replace(case.layer, input_size=case.layer.input_size + case.tp_size))


def _each_adapter(case: Case, change: Callable[[AdapterSpec], AdapterSpec]) -> Case:
    return replace(case, adapters=tuple(change(adapter) for adapter in case.adapters))


def _ranked(case: Case, rank: int) -> Case:
    changed = _each_adapter(case, lambda one: one.of_rank(rank))
    return replace(changed, max_rank=max(case.max_rank, rank * (case.tp_size if case.fully_sharded else 1)))


def _scaled(case: Case, factor: float) -> Case:
    return _each_adapter(case, lambda one: replace(one, alpha=one.alpha * factor))
