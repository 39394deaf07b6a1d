"""LIFE: adapters come and go; and what MATH and RANK say of whole models."""

from __future__ import annotations

from contextlib import suppress

from torch import Tensor

from conformance.judging.assertions import assert_same_bits, raising
from conformance.judging.facts import Aspect, Difference, Place
from conformance.judging.programs import (
    assert_explained,
    assert_outcome,
    assert_program_served,
    assert_tokens_served,
    at,
    could_load,
    misfit_of,
    people,
    played,
)
from conformance.judging.verdicts import Violation
from conformance.oracles.programs import ProgramOracle
from conformance.oracles.shelf import outcomes_of
from conformance.search.life_machines import Breaking, Keeping, Living, Meeting
from conformance.subjects.outcomes import NotExercised
from conformance.subjects.programs import ModelSession, observe_model
from conformance.subjects.records import Record
from conformance.subjects.subject import Subject
from conformance.suite.clauses import check
from strategies.program_drawing import frames, programs
from strategies.programs import Program, StepKind
from strategies.tree_drawing import models


@check("LIFE-1", Living)
def test_every_token_is_served_as_if_its_adapter_had_never_moved(subject: Subject, program: Program) -> None:
    assert_program_served(subject, program)


@check("LIFE-2", Keeping)
def test_who_is_registered_and_active_follows_least_recent_use(subject: Subject, program: Program) -> None:
    shown = played(subject, ProgramOracle(program))
    planned = outcomes_of(program)
    for rank, records in enumerate(shown):
        done = iter(records)
        for number, (call, outcome) in enumerate(planned):
            if call.method in ("run", "rerun"):
                continue
            record = next(record for record in done if record.call.method not in ("run", "rerun"))
            assert record.call == call
            place, right = at(number, call, rank), (outcome.registered, outcome.active)
            assert_outcome(program, place, record, outcome.result)
            if record.after != right:
                anomaly = "wrong-eviction" if record.problem is None else "state-lost"
                difference = Difference(Aspect.STATE, people(record.after), people(right))
                raise Violation(anomaly, difference, program, place)
    if not any(outcome.result is None or not outcome.result for _, outcome in planned):
        raise NotExercised("no call met a full house or a second of its kind")


@check("LIFE-3", Breaking)
def test_a_load_that_fails_half_way_changes_nothing(subject: Subject, program: Program) -> None:
    assert_failures_change_nothing(subject, program)


@check("LIFE-3", Meeting)
def test_an_adapter_that_does_not_fit_is_refused_and_changes_nothing(subject: Subject, program: Program) -> None:
    assert_failures_change_nothing(subject, program)


def assert_failures_change_nothing(subject: Subject, program: Program) -> None:
    """Whatever raises leaves who is there, and what everybody is served, as it was."""
    __tracebackhide__ = True
    values = ProgramOracle(program)
    shown = played(subject, values)
    failed = False
    for rank, records in enumerate(shown):
        for number, record in enumerate(records):
            place = at(number, record.call, rank)
            if record.problem is None:
                assert_nothing_passed(program, place, record)
                continue
            failed = True
            if record.before != record.after:
                after = f", after it raised {record.problem}"
                difference = Difference(Aspect.STATE, people(record.after), people(record.before), after=after)
                raise Violation("state-lost", difference, program, place)
            if misfit_of(program, record) and not record.problem.injected and could_load(record):
                assert_explained(values, place, record)
    with suppress(NotExercised):
        assert_tokens_served(subject, values, shown)
    if not failed:
        raise NotExercised("nothing failed")


def assert_nothing_passed(program: Program, place: Place, record: Record) -> None:
    """A call that succeeded had nothing wrong with it."""
    __tracebackhide__ = True
    number, misfit = record.call.number, misfit_of(program, record)
    if misfit and number in record.after[1]:
        raise Violation("not-refused", f"activated an adapter that does not fit: {misfit}", program, place)
    if record.call.method == "activate_failing" and number not in record.before[1]:
        raise Violation("fault-swallowed", "succeeded, though a load failed in it", program, place)


SERVE = (StepKind.USE,)


@check(
    "MATH-8",
    programs(frames(trees=models(linears=(1, 3)), adapters=(1, 2), evict=(True,)), kinds=SERVE, steps=(0, 1)),
)
def test_in_a_model_packed_parts_reach_their_slices_by_name(subject: Subject, program: Program) -> None:
    assert_program_served(subject, program)


@check("MATH-12", programs(frames(adapters=(1, 2), disk=(True,), evict=(True,)), kinds=SERVE, steps=(0, 1)))
def test_the_scaling_that_peft_would_apply_is_applied_once(subject: Subject, program: Program) -> None:
    assert_program_served(subject, program)


@check("RANK-5", frames(adapters=(1,)))
def test_in_a_model_the_warm_up_changes_nothing(subject: Subject, program: Program) -> None:
    values = ProgramOracle(program)
    library = subject.implementation.layers

    def run(session: ModelSession) -> list[list[Tensor]]:
        layers = [(index, name) for index, module in enumerate(program.model.linears) for name in module.names]
        # Adding a zero may turn -0 into 0, which is no change of value.
        return [[tensor + 0.0 for tensor in session.run_layer(name, index)] for index, name in layers]

    def warm(session: ModelSession) -> tuple[list[list[Tensor]], list[list[Tensor]], int]:
        bare = run(session.build())
        session.wrap().require_wrapped()
        with library.ranked(session.group), session.manager.warmed_up(len(program.batches[0]), 8) as rank:
            return bare, run(session), rank

    with raising(program):
        shown = observe_model(subject, values, warm)
    for bare, warmed, rank in shown:
        if not 0 < rank <= program.max_rank:
            raise Violation("rank-indivisible", f"rank {rank}, but at most {program.max_rank} fits", program)
        names = [name for module in program.model.linears for name in module.names]
        for name, before, after in zip(names, bare, warmed, strict=True):
            place = Place(module=name, setting=f"under a dummy adapter of rank {rank}")
            assert_same_bits(program, after, before, anomaly="adapter-leak", place=place)
