"""The assertions about whole models: every token's output, every call's outcome, every refusal's words."""

from __future__ import annotations

import re
from dataclasses import replace

import torch

from conformance.engines.ranks import CollectiveMismatch
from conformance.judging.anomalies import UNEXPLAINED
from conformance.judging.anomalies.linear import explain
from conformance.judging.anomalies.partial_sums import together
from conformance.judging.assertions import first_difference, raised
from conformance.judging.verdicts import Violation
from conformance.oracles.programs import ProgramOracle
from conformance.subjects.outcomes import NotExercised, SubjectRaised
from conformance.subjects.programs import ModelSession, observe_model
from conformance.subjects.records import LayerOutput, Record
from conformance.subjects.subject import Subject
from strategies.programs import Misfit, Program

Shown = list[list[Record]]


def played(subject: Subject, values: ProgramOracle) -> Shown:
    """Every rank's records."""
    __tracebackhide__ = True

    def program(session: ModelSession) -> list[Record]:
        return session.build().wrap().require_wrapped().play()

    try:
        return observe_model(subject, values, program)
    except (SubjectRaised, CollectiveMismatch) as error:
        raise raised(error, values.program) from error


def assert_tokens_served(subject: Subject, values: ProgramOracle, shown: Shown) -> None:
    """Every run of every layer gives each token its own active adapter, and the same under each of its names."""
    __tracebackhide__ = True
    served = False
    for number, records in enumerate(zip(*shown, strict=True)):
        where = f"call {number + 1}, {records[0].call}"
        for outputs in zip(*(record.outputs for record in records), strict=True):
            tokens = records[0].tokens[outputs[0].index]
            served |= max(tokens, default=-1) >= 0
            assert_layer_served(subject, values, where, outputs, tokens)
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
                where = f"call {number + 1}, {record.call}, rank {rank}"
                raise Violation("refused-wrongly", f"{where} raised {record.problem}, with a place free", program)
    assert_tokens_served(subject, values, shown)


def assert_layer_served(
    subject: Subject, values: ProgramOracle, where: str, outputs: tuple[LayerOutput, ...], tokens: tuple[int, ...]
) -> None:
    """One run of one layer, on all ranks, gives each token what its adapter gives it in a fresh engine."""
    __tracebackhide__ = True
    index, name = outputs[0].index, outputs[0].name
    case = values.cases[index]
    actual, expected = together(case, [output.tensors for output in outputs], values.expected(subject, index, tokens))
    for rank, (tensors, right) in enumerate(zip(actual, expected, strict=True)):
        message = first_difference(case, list(tensors), right)
        if message is not None:
            raise Violation(
                _mistake(subject, values, outputs, tokens),
                f"{where}: rank {rank}: {name}: {message}; adapters {[t + 1 for t in tokens]} (0: none)",
                values.program,
            )


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


def assert_outcome(program: Program, where: str, record: Record, right: bool | None) -> None:
    """The call returned, or refused, what it should."""
    __tracebackhide__ = True
    if right is not None and record.problem is not None:
        raise Violation("refused-wrongly", f"{where} raised {record.problem}, but should succeed", program)
    if right is None and record.problem is None:
        raise Violation("not-refused", f"{where} succeeded, but should be refused", program)
    if right is None and record.problem is not None and record.problem.crash:
        raise Violation("unclear-refusal", f"{where} raised {record.problem}, which says nothing", program)
    if right is not None and record.result != right and record.call.method != "pin":
        raise Violation("wrong-answer", f"{where} returned {record.result}, but should return {right}", program)


def people(registered: frozenset[int], active: frozenset[int]) -> str:
    return f"registered {sorted(i + 1 for i in registered)}, active {sorted(i + 1 for i in active)}"


def misfit_of(program: Program, record: Record) -> Misfit | None:
    """What is wrong with the call's adapter."""
    if record.call.method in ("run", "rerun", "deactivate"):
        return None
    misfit = program.adapters[record.call.number].misfit
    return None if misfit is Misfit.NONE else misfit


def could_load(record: Record) -> bool:
    """Whether the call could meet the adapter's tensors: one that is not registered is refused for that."""
    return record.call.method == "add" or record.call.number in record.before[0]


def assert_explained(program: Program, values: ProgramOracle, where: str, record: Record) -> None:
    """The refusal names the module and two shapes, what was expected and what was received."""
    __tracebackhide__ = True
    said = record.problem.message if record.problem else ""
    modules = {
        part for name in values.adapter(record.call.number).modules for part in (name, name.rpartition(".")[2])
    } | {name for module in program.model.linears for name in module.names}
    if not any(module in said for module in modules):
        raise Violation("unclear-refusal", f"{where} does not name the module: {record.problem}", program)
    if len(re.findall(r"\d+", said)) < 2:
        raise Violation("unclear-refusal", f"{where} does not say what was expected: {record.problem}", program)
