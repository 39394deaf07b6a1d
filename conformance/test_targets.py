"""TARGET: which modules of a model; and what WRAP says of whole models."""

from __future__ import annotations

from contextlib import suppress

import torch
from torch import Tensor, nn

from conformance.judging.assertions import raising
from conformance.judging.facts import Place
from conformance.judging.programs import assert_program_served, problem_of
from conformance.judging.verdicts import Violation
from conformance.oracles.programs import ProgramOracle
from conformance.oracles.targets import culprits_of, is_named, layers_of
from conformance.subjects.outcomes import NotExercised
from conformance.subjects.programs import ModelSession, observe_model
from conformance.subjects.records import Problem
from conformance.subjects.subject import Subject
from conformance.subjects.trees import OTHER_WIDTH
from conformance.suite.clauses import check
from strategies.choices import sampled
from strategies.program_drawing import frames, programs
from strategies.programs import Program, StepKind
from strategies.target_questions import TargetQuestion, misplaced_targets, target_questions
from strategies.tree_drawing import models
from strategies.trees import ModuleKind, ModuleSpec


def values_for(subject: Subject, question: TargetQuestion) -> ProgramOracle:
    """The tensors of the question's model; it has no adapters."""
    program = subject.fitted(Program(model=question.model, adapters=(), batches=((-1,),)))
    assert isinstance(program, Program)
    return ProgramOracle(program)


def wrapped_modules(subject: Subject, question: TargetQuestion) -> list[frozenset[str]] | Problem:
    """On each rank the names of the modules that were replaced; or the error that said they would not be."""
    __tracebackhide__ = True

    def program(session: ModelSession) -> frozenset[str] | Problem:
        session.build()
        before = {module.name: session.model.get_submodule(module.name) for module in question.model.modules}
        try:
            session.wrap(question.targets)
        except Exception as error:
            return Problem.of(error)
        replaced = frozenset(name for name in before if session.manager.wrapped(name))
        assert_untouched(question, session, {n: m for n, m in before.items() if n not in replaced})
        return replaced

    with raising(question):
        found = observe_model(subject, values_for(subject, question), program)
    problems = [one for one in found if isinstance(one, Problem)]
    return problems[0] if problems else [one for one in found if not isinstance(one, Problem)]


def assert_untouched(question: TargetQuestion, session: ModelSession, before: dict[str, nn.Module]) -> None:
    """These modules are where they were, and of the class they had."""
    __tracebackhide__ = True
    for name, module in before.items():
        if session.model.get_submodule(name) is not module:
            raise Violation("base-changed", f"{name} was not wrapped, but was replaced", question)


def assert_exactly(question: TargetQuestion, found: list[frozenset[str]] | Problem) -> None:
    """The layers replaced are the right ones."""
    __tracebackhide__ = True
    right = frozenset(layers_of(question))
    if isinstance(found, Problem):
        fact = problem_of(found, but=f", but should wrap {sorted(right)}")
        raise Violation("refused-wrongly", fact, question)
    for rank, names in enumerate(found):
        missing, surplus = sorted(right - names), sorted(names - right)
        if missing:
            raise Violation("not-wrapped", f"{', '.join(missing)} left unwrapped", question, Place(rank=rank))
        if surplus:
            said = f"{', '.join(surplus)} wrapped, but not targeted"
            raise Violation("wrapped-unasked", said, question, Place(rank=rank))


@check("TARGET-1", target_questions())
def test_a_module_is_wrapped_if_a_target_names_it_and_only_then(subject: Subject, question: TargetQuestion) -> None:
    found = wrapped_modules(subject, question)
    linears = question.model.linears
    idle = [t for t in question.targets or () if not any(is_named(question, module, t) for module in linears)]
    if idle and isinstance(found, Problem):  # a target that names nothing may be refused
        if found.crash or not any(target in found.message for target in idle):
            fact = problem_of(found, but=f", which is not about {idle}")
            raise Violation("refused-wrongly", fact, question)
        return
    assert_exactly(question, found)


@check(
    "TARGET-2",
    models(plain=True, towers=False, max_depth=0).flatmap(
        lambda model: sampled((TargetQuestion(model), TargetQuestion(model, ())))
    ),
)
def test_none_names_every_layer_and_an_empty_list_none(subject: Subject, question: TargetQuestion) -> None:
    assert_exactly(question, wrapped_modules(subject, question))


@check("WRAP-6", misplaced_targets())
def test_a_target_that_cannot_be_wrapped_is_an_error_that_names_it(subject: Subject, question: TargetQuestion) -> None:
    found = wrapped_modules(subject, question)
    culprits = culprits_of(question)
    if not culprits:
        raise NotExercised("the targets name nothing that cannot be wrapped")
    if not isinstance(found, Problem):
        kinds = ", ".join(f"{m.name} ({m.kind.value})" for m in culprits)
        raise Violation(
            "not-refused", f"targets name {kinds}, which cannot be wrapped, and nothing was said", question
        )
    said = found.message
    if found.crash or not any(m.name in said for m in culprits):
        fact = problem_of(found, but=f", which does not name {culprits[0].name}")
        raise Violation("unclear-refusal", fact, question)
    if not any(target in said for target in question.targets or ()):
        raise Violation("unclear-refusal", problem_of(found, but=", which does not name the targets"), question)


@check(
    "WRAP-6",
    models(
        plain=True, aliases=(False,), towers=False, max_depth=0, others=(1, 2), other_kinds=tuple(ModuleKind)[1:]
    ).map(TargetQuestion),
)
def test_what_nobody_named_and_cannot_be_wrapped_is_left_as_it_is(subject: Subject, question: TargetQuestion) -> None:
    values = values_for(subject, question)

    def program(session: ModelSession) -> None:
        session.build()
        others = [m for m in question.model.modules if m.kind not in (ModuleKind.LINEAR, ModuleKind.HOLLOW)]
        before = [foreign_output(session, module) for module in others]
        session.wrap()
        after = [foreign_output(session, module) for module in others]
        if any(not torch.equal(a, b) for a, b in zip(before, after, strict=True)):
            raise Violation("base-changed", "a module that is no layer gives another output", question)
        warned = session.manager.left_alone()
        hollow = [m.name for m in question.model.modules if m.kind is ModuleKind.HOLLOW]
        if warned is not None and sorted(warned) != hollow:
            raise Violation("silent", f"warned of {sorted(warned)}, but should warn of {hollow} once", question)

    with raising(question):
        observe_model(subject, values, program)


def foreign_output(session: ModelSession, module: ModuleSpec) -> Tensor:
    """What a module that is no layer returns."""
    x = torch.arange(2 * OTHER_WIDTH, device=session.device).view(2, OTHER_WIDTH) % OTHER_WIDTH
    found = session.model.get_submodule(module.name)
    return found(x if module.kind is ModuleKind.EMBEDDING else x.float()).clone()  # type: ignore[no-any-return]


COMING_AND_GOING = (StepKind.USE, StepKind.USE, StepKind.RUN, StepKind.DEACTIVATE, StepKind.REMOVE)


@check(
    "WRAP-5",
    programs(
        frames(trees=models(linears=(1, 2), plain=True, aliases=(True,)), disk=(False,)),
        kinds=COMING_AND_GOING,
        steps=(0, 13),
    ),
)
def test_a_module_with_two_names_has_one_wrapper(subject: Subject, program: Program) -> None:
    values = ProgramOracle(program)

    def count(session: ModelSession) -> None:
        session.build().wrap().require_wrapped()
        for module in filter(lambda module: module.alias, program.model.linears):
            one, other = map(session.model.get_submodule, (module.name, module.alias))
            if one is not other:
                raise Violation("wrapped-twice", f"{module.name} and {module.alias} are two modules now", program)

    with raising(program):
        observe_model(subject, values, count)
    with suppress(NotExercised):  # one wrapper it is; LIFE-1 asks for tokens
        assert_program_served(subject, program)
