"""The last steps of shrinking, and which parts of a case do not matter.

Hypothesis shrinks the draws; `settled` then takes the plain value of each part that is not needed, one at a time, so
that the end does not depend on where a shard began. `indifferent_parts` changes the parts that are left, away from
their values: a part that can be changed in every way tried, and the same failure stays, does not matter.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import replace

from conformance.regressions.bodies import Body, violation_of
from conformance.regressions.program_simplifications import simpler_whole
from conformance.regressions.simplifications import simpler
from conformance.subject import HarnessError, Subject
from conformance.verdicts import NotApplicable, Violation
from lora_compat.families import Family
from strategies.cases import AdapterSpec, Case, Constructor, Dtype, Loader, Mixins, Regime
from strategies.classes import possible_forwards
from strategies.codec import Spec

MAX_STEPS = 600
_VOTES = 12
_SEEDS = 5  # a bias of one number is zero with every fourth
_RENAMINGS = 3
_OTHER_SHAPE = re.compile(r"tensors returned|shape=")
# What names the layer that was in the way: the family, or the module's print-out.
_NAMES = re.compile(r"\w+LoRA\b|\w+Wrapper\b|\w+Linear\b|\(\n.*\n\)", re.DOTALL)
_NUMBERS = re.compile(r"\d+(, \d+)*")
Still = Callable[[Spec], Violation | None]


def same_failure(subject: Subject, clause: str, body: Body, first: Violation) -> Still:
    """Tells whether a case still fails in the same way as ``first``, and how."""

    def still(case: Spec) -> Violation | None:
        try:
            found = violation_of(subject, body, case, blaming=clause)
        except (HarnessError, NotApplicable):
            return None
        return found if found is not None and manner(found) == manner(first) else None

    return still


def manner(found: Violation) -> str:
    """The anomaly; for what names none, an exception or a wrong shape, the message without its numbers."""
    if found.anomaly == "raised":
        return f"raised {_NUMBERS.sub('#', _NAMES.sub('…', found.message))}"
    return "another shape" if _OTHER_SHAPE.search(found.message) else found.anomaly


def settled(found: Violation, still: Still, max_steps: int = MAX_STEPS) -> Violation:
    """The same failure on the plainest case that ``max_steps`` attempts lead to."""
    steps = 0
    improved = True
    while improved and steps < max_steps:
        improved = False
        for candidate in _plainer(found.case):
            steps += 1
            better = still(candidate)
            if better is not None and better.case != found.case:
                found, improved = better, True
                break
            if steps >= max_steps:
                break
    return found


def _plainer(case: object) -> Iterator[Spec]:
    if isinstance(case, Case):
        yield from _with_other_values(case)
    elif isinstance(case, Spec):
        yield from simpler_whole(case)


def _with_other_values(case: Case) -> Iterator[Case]:
    """The simpler neighbours, with their own values and with others: what is left must not hide by coincidence."""
    plainer = list(simpler(case))
    yield from plainer
    for one in plainer:
        yield from (replace(one, seed=seed) for seed in range(_SEEDS) if seed != one.seed and one.seed == case.seed)


def renamed(subject: Subject, clause: str, body: Body, found: Violation) -> Violation:
    """The same failure by the name that most values give it: on a small case two mistakes may look alike."""
    case = found.case
    if not isinstance(case, Case) or found.anomaly == "raised":
        return found
    seen: dict[str, list[Violation]] = {}
    for seed in range(_VOTES):
        with contextlib.suppress(HarnessError, NotApplicable):
            other = violation_of(subject, body, replace(case, seed=seed), blaming=clause)
            if other is not None:
                seen.setdefault(manner(other), []).append(other)
    most = max(seen.values(), key=len, default=[])
    return most[0] if len(most) > len(seen.get(manner(found), ())) else found


def plainest(subject: Subject, clause: str, body: Body, found: Violation) -> tuple[Violation, Still]:
    """The failure settled and rightly named, and what tells whether another case fails in the same way."""
    still = same_failure(subject, clause, body, found)
    smallest = settled(found, still)
    for _ in range(_RENAMINGS):
        better = renamed(subject, clause, body, smallest)
        if better is smallest:
            break
        still = same_failure(subject, clause, body, better)
        smallest = settled(better, still)
    return smallest, still


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
    yield "dtype", [replace(case, dtype=dtype) for dtype in Dtype if dtype is not case.dtype]
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
    changed = _each_adapter(case, lambda one: replace(one, rank=rank, alpha=rank * one.alpha / one.rank, rslora=False))
    return replace(changed, max_rank=max(case.max_rank, rank * (case.tp_size if case.fully_sharded else 1)))


def _scaled(case: Case, factor: float) -> Case:
    return _each_adapter(case, lambda one: replace(one, alpha=one.alpha * factor))
