"""What happened to a mixture of experts, by name: each known mistake is computed, the one that matches is named."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product

import torch
from torch import Tensor

from conformance.judging.anomalies import UNEXPLAINED, unexplained_if_it_fails
from conformance.judging.anomalies.expert_deltas import (
    NOTHING,
    Deltas,
    Mistake,
    plain_mistakes,
    right_deltas,
    special_mistakes,
)
from conformance.values.experts import ExpertsTensors
from strategies.experts import ExpertsCase

Outputs = Sequence[Tensor]
Tables = list[list[Deltas]]  # by adapter and expert


@unexplained_if_it_fails
def explain(case: ExpertsCase, tensors: ExpertsTensors, outputs: Outputs) -> str:
    """The name of the first known mistake that gives exactly ``outputs [tokens, hidden]``, one of each rank.

    First come mistakes whose whole outcome can be computed, then pairs of token and expert that were served another
    adapter, or none; ``unexplained`` if nothing fits.
    """
    answers = _Answers(case, tensors)
    if any(not torch.equal(one, outputs[0]) for one in outputs[1:]):
        return UNEXPLAINED  # the layer ends in a sum, which is the same everywhere
    seen = outputs[0].double()
    for name, would_be in _mistakes(answers):
        if torch.equal(seen, would_be):
            return name
    return _by_pair(answers, seen) or UNEXPLAINED


class _Answers:
    """What merged experts give a case, with any contribution for each pair of token and expert."""

    def __init__(self, case: ExpertsCase, tensors: ExpertsTensors) -> None:
        self.case, self.tensors = case, tensors
        self.tables: Tables = [[right_deltas(case, one) for one in adapter.experts] for adapter in tensors.adapters]
        self.right = self.with_tables(self.tables)

    def pair(self, token: int, place: int, deltas: Deltas) -> Tensor:
        """What the token's ``place``-th expert adds to its output, with these contributions to its weights."""
        x = self.tensors.routed.hidden[token].double()
        base = self.tensors.weights[self.case.routing[token][place]]
        gate, up, down = (
            weight if delta is None else weight + delta
            for weight, delta in zip((base.gate, base.up, base.down), deltas, strict=True)
        )
        factor = self.tensors.routed.weights[token, place].double()
        output: Tensor = factor * (down @ (torch.relu(gate @ x) * (up @ x)))
        return output

    def outputs(self, choose: Callable[[int, int], Deltas]) -> Tensor:
        """All tokens, with what ``choose`` says for token and place."""
        places = range(self.case.top_k)
        rows = [sum(self.pair(token, place, choose(token, place)) for place in places) for token in self.tokens]
        return torch.stack(rows)  # type: ignore[arg-type]

    @property
    def tokens(self) -> range:
        """The tokens, by number."""
        return range(len(self.case.tokens))

    def with_tables(self, tables: Tables) -> Tensor:
        """Every token with its own adapter of these."""
        return self.outputs(lambda token, place: self.of_adapter(tables, self.case.tokens[token], token, place))

    def own(self, token: int, place: int) -> Deltas:
        """What the token's own adapter has for its ``place``-th expert."""
        return self.of_adapter(self.tables, self.case.tokens[token], token, place)

    def of_adapter(self, tables: Tables, adapter: int, token: int, place: int) -> Deltas:
        """What an adapter has for the token's ``place``-th expert."""
        return tables[adapter][self.case.routing[token][place]] if adapter >= 0 else NOTHING


def _mistakes(answers: _Answers) -> Iterator[tuple[str, Tensor]]:
    """Each known mistake with what every rank would have returned.

    Those that need ranks, a fused tensor or several adapters come before those that are easily met by chance: what
    needs less shrinks to cases without them.
    """
    case, top_k, tokens = answers.case, answers.case.top_k, len(answers.case.tokens)
    for name, change in special_mistakes(case):
        yield name, _changed(answers, change)
    if top_k > 1:
        yield "expert-skipped", answers.outputs(lambda token, place: NOTHING if place else answers.own(token, place))
    for stride in range(1, case.experts // (case.tp_size if case.expert_parallel else 1)):
        yield "wrong-slot", answers.with_tables(_overlapping(answers, stride))

    def other_token(token: int, place: int) -> Deltas:
        adapter = case.tokens[(token * top_k + place) % tokens]
        return answers.of_adapter(answers.tables, adapter, token, place)

    if top_k > 1:  # pairs counted as if all first experts came before all second ones
        yield "wrong-slot", answers.outputs(other_token)
    yield "delta-dropped", answers.outputs(lambda token, place: NOTHING)
    for name, change in plain_mistakes(case):
        yield name, _changed(answers, change)
    # Each expert with another one's: counted from the last, from one place on, or from one place before.
    for begin, step in ((-1, -1), (1, 1), (-1, 1)):
        order = [(begin + step * expert) % case.experts for expert in range(case.experts)]
        yield "wrong-slot", answers.with_tables([[table[expert] for expert in order] for table in answers.tables])


def _changed(answers: _Answers, change: Mistake) -> Tensor:
    return answers.with_tables([[change(one) for one in each.experts] for each in answers.tensors.adapters])


def _overlapping(answers: _Answers, stride: int) -> Tables:
    """What each expert of each adapter finds where adapters are ``stride`` places apart: the last that was loaded."""
    case = answers.case
    local = case.experts // (case.tp_size if case.expert_parallel else 1)
    found: dict[tuple[int, int], Deltas] = {}
    places = [
        [(expert // local, spec.slot * stride + expert % local) for expert in range(case.experts)]
        for spec in case.adapters
    ]
    for table, where in zip(answers.tables, places, strict=True):
        found.update(zip(where, table, strict=True))
    return [[found[place] for place in where] for where in places]


def _by_pair(answers: _Answers, seen: Tensor) -> str | None:
    """Tokens that were served another adapter than their own, or none, in one of their experts or in all."""
    places = range(answers.case.top_k)
    names = set()
    for token in answers.tokens:
        if torch.equal(seen[token], answers.right[token]):
            continue
        own = answers.case.tokens[token]
        others = [own, *(one for one in range(-1, len(answers.tables)) if one != own)]
        outputs = [
            [answers.pair(token, place, answers.of_adapter(answers.tables, one, token, place)) for one in others]
            for place in places
        ]
        served = [
            [others[index] for index in chosen]
            for chosen in sorted(product(range(len(others)), repeat=len(places)), key=lambda one: -one.count(0))
            if torch.equal(sum(outputs[place][index] for place, index in enumerate(chosen)), seen[token])  # type: ignore[arg-type]
        ]
        if not served:
            return None
        strange = set(served[0]) - {own}
        missing = "delta-dropped" if set(served[0]) == {-1} else "expert-skipped"
        names.add("adapter-leak" if own < 0 else missing if strange == {-1} else "wrong-slot")
    return names.pop() if len(names) == 1 else "wrong-slot" if names else None
