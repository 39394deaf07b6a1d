"""The assertions about whole models: every token's output, every call's outcome, every refusal's words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import permutations

import torch
from torch import Tensor

from conformance.judging.anomalies import UNEXPLAINED
from conformance.judging.anomalies.linear import explain
from conformance.judging.anomalies.partial_sums import together
from conformance.judging.assertions import assert_equal, first_difference, raising
from conformance.judging.facts import Aspect, Difference, Place, Raised
from conformance.judging.verdicts import Violation
from conformance.oracles.programs import ProgramOracle
from conformance.subjects.calls import Call
from conformance.subjects.outcomes import NotExercised
from conformance.subjects.programs import ModelSession, observe_model
from conformance.subjects.records import LayerOutput, Problem, Record
from conformance.subjects.subject import Subject
from strategies.programs import Companion, Misfit, Program

Shown = list[list[Record]]


def played(subject: Subject, values: ProgramOracle) -> Shown:
    """Every rank's records."""
    __tracebackhide__ = True

    def program(session: ModelSession) -> list[Record]:
        return session.build().wrap().require_wrapped().play()

    with raising(values.program):
        return observe_model(subject, values, program)


def assert_tokens_served(subject: Subject, values: ProgramOracle, shown: Shown) -> None:
    """Every run of every layer gives each token its own active adapter, and the same under each of its names."""
    __tracebackhide__ = True
    served = False
    for number, records in enumerate(zip(*shown, strict=True)):
        place = at(number, records[0].call)
        for outputs in zip(*(record.outputs for record in records), strict=True):
            tokens = records[0].tokens[outputs[0].index]
            served |= max(tokens, default=-1) >= 0
            assert_layer_served(subject, values, place, outputs, tokens)
    if not served:
        raise NotExercised("no token was ever served by an adapter")


def assert_program_served(subject: Subject, program: Program) -> None:
    """Nobody who has a place is turned away, and every token is served."""
    __tracebackhide__ = True
    values = ProgramOracle(program)
    shown = played(subject, values)
    for rank, records in enumerate(shown):
        for number, record in enumerate(records):
            registered, active = record.before
            free = {"add": len(registered) < program.max_adapters,
                    "activate": record.call.number in registered and len(active) < program.max_loras}  # fmt: skip
            if record.problem is not None and free.get(record.call.method):
                fact = problem_of(record.problem, but=", with a place free")
                raise Violation("refused-wrongly", fact, program, at(number, record.call, rank))
    assert_tokens_served(subject, values, shown)


def assert_layer_served(
    subject: Subject, values: ProgramOracle, place: Place, outputs: tuple[LayerOutput, ...], tokens: tuple[int, ...]
) -> None:
    """One run of one layer, on all ranks, gives each token what its adapter gives it in a fresh engine."""
    __tracebackhide__ = True
    index, name = outputs[0].index, outputs[0].name
    if index >= len(values.cases):
        assert_companion_served(values, place, outputs, tokens)
        return
    case = values.cases[index]
    actual, expected = together(case, [output.tensors for output in outputs], values.expected(subject, index, tokens))
    for rank, (tensors, right) in enumerate(zip(actual, expected, strict=True)):
        difference = first_difference(case, list(tensors), right)
        if difference is not None:
            fact = replace(difference, after=f"; adapters {[t + 1 for t in tokens]} (0: none)")
            anomaly = _mistake(subject, values, outputs, tokens)
            raise Violation(anomaly, fact, values.program, replace(place, rank=rank, module=name))


def assert_companion_served(
    values: ProgramOracle, place: Place, outputs: tuple[LayerOutput, ...], tokens: tuple[int, ...]
) -> None:
    """One run of a layer of another kind, which gives the same on all ranks, serves each token its adapter."""
    __tracebackhide__ = True
    index = outputs[0].index - len(values.cases)
    right = values.of_companion(index, tokens)
    for rank, output in enumerate(outputs):
        seen = output.tensors[0].double()
        anomaly = UNEXPLAINED
        if seen.shape == right.shape and not torch.equal(seen, right):
            anomaly = stale_or_dropped(seen, right, _served_with(values, index, len(tokens)))
        where = replace(place, rank=rank, module=output.name)
        assert_equal(
            values.program, seen, right, where, anomaly, after=f"; adapters {[t + 1 for t in tokens]} (0: none)"
        )


def _served_with(values: ProgramOracle, index: int, tokens: int) -> Iterator[tuple[str, Tensor]]:
    """What all of a companion's tokens would be without an adapter, with each, and with two that share a mixture."""
    yield "delta-dropped", values.of_companion(index, (-1,) * tokens)
    everybody = range(len(values.program.adapters))
    for number in everybody:
        yield "stale-slot", values.of_companion(index, (number,) * tokens)
    if values.program.companions[index] is Companion.EXPERTS:
        for number, other in permutations(everybody, 2):
            yield "stale-slot", values.of_companion(index, (number,) * tokens, down=other)


def stale_or_dropped(seen: Tensor, right: Tensor, served_with: Iterable[tuple[str, Tensor]]) -> str:
    """Whether each wrong token has no adapter's part, or another adapter's; the first that fits names a token."""
    named = {token: "" for token in range(len(right)) if not torch.equal(seen[token], right[token])}
    for name, rows in served_with:
        for token in named:
            named[token] = named[token] or name * torch.equal(seen[token], rows[token])
    names = {*named.values()}
    return UNEXPLAINED if "" in names else "delta-dropped" if names == {"delta-dropped"} else "stale-slot"


def _mistake(
    subject: Subject, values: ProgramOracle, outputs: tuple[LayerOutput, ...], tokens: tuple[int, ...]
) -> str:
    """Whether the wrong tokens have no adapter's part, or another adapter's; else the layer's own mistake."""
    numbers = (-1, *range(len(values.program.adapters)))
    names = set()
    for token, own in enumerate(tokens):
        served = [n for n in dict.fromkeys((own, *numbers)) if _row_is(subject, values, outputs, token, n)]
        if own not in served:
            names.add(UNEXPLAINED if not served else "delta-dropped" if served[0] < 0 else "stale-slot")
    if UNEXPLAINED not in names:
        return "stale-slot" if "stale-slot" in names else "delta-dropped"
    index = outputs[0].index
    case, right = replace(values.cases[index], tokens=tokens), values.expected(subject, index, tokens)
    actual, expected = together(case, [output.tensors for output in outputs], right)
    return explain(case, actual, expected, subject, values.tensors[index])


def _row_is(
    subject: Subject, values: ProgramOracle, outputs: tuple[LayerOutput, ...], token: int, number: int
) -> bool:
    """Whether one token got what adapter ``number`` gives."""
    index = outputs[0].index
    case = values.cases[index]
    right = values.expected(subject, index, (number,) * len(case.tokens))
    actual, expected = together(case, [output.tensors for output in outputs], right)
    return all(
        not by_token or torch.equal(tensor.double().reshape(value.shape)[token], value[token])
        for tensors, one in zip(actual, expected, strict=True)
        for tensor, value, by_token in zip(tensors, one.values, one.by_token, strict=False)
    )


def assert_outcome(program: Program, place: Place, record: Record, right: bool | None) -> None:
    """The call returned, or refused, what it should."""
    __tracebackhide__ = True
    if right is not None and record.problem is not None:
        raise Violation("refused-wrongly", problem_of(record.problem, but=", but should succeed"), program, place)
    if right is None and record.problem is None:
        raise Violation("not-refused", "succeeded, but should be refused", program, place)
    if right is None and record.problem is not None and record.problem.crash:
        raise Violation("unclear-refusal", problem_of(record.problem, but=", which says nothing"), program, place)
    if right is not None and record.result != right and record.call.method not in ("pin", "replace"):
        raise Violation("wrong-answer", Difference(Aspect.RESULT, record.result, right), program, place)


def problem_of(problem: Problem, *, but: str) -> Raised:
    """What a call raised, as a fact: the first line of what it said."""
    return Raised(problem.kind, problem.message.partition("\n")[0], problem.site, but)


def at(number: int, call: Call, rank: int | None = None) -> Place:
    """The place of a program's call, ``number`` from zero on."""
    return Place((number + 1, call.method, call.argument), rank)


def people(state: tuple[frozenset[int], frozenset[int]]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Who is registered, and who active, as people count."""
    registered, active = (tuple(sorted(number + 1 for number in one)) for one in state)
    return registered, active


def misfit_of(program: Program, record: Record) -> Misfit | None:
    """What is wrong with the call's adapter."""
    if record.call.method in ("run", "rerun", "deactivate"):
        return None
    misfit = program.adapters[record.call.number].misfit
    return None if misfit is Misfit.NONE else misfit


def could_load(record: Record) -> bool:
    """Whether the call could meet the adapter's tensors: one that is not registered is refused for that."""
    return record.call.method == "add" or record.call.number in record.before[0]


def assert_explained(values: ProgramOracle, place: Place, record: Record) -> None:
    """The refusal names the module and two shapes, what was expected and what was received."""
    __tracebackhide__ = True
    program = values.program
    said = record.problem.message if record.problem else ""
    modules = {
        part for name in values.adapter(record.call.number).modules for part in (name, name.rpartition(".")[2])
    } | {name for module in program.model.linears for name in module.names}
    if record.problem is None:
        return
    if not any(module in said for module in modules):
        raise Violation("unclear-refusal", problem_of(record.problem, but=", which names no module"), program, place)
    if len(re.findall(r"\d+", said)) < 2:
        fact = problem_of(record.problem, but=", which does not say what was expected")
        raise Violation("unclear-refusal", fact, program, place)
