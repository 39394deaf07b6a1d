"""RANK: the dummy warm-up rank."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

from torch import Tensor

from conformance.judging.assertions import assert_same_bits, observed, raising, told
from conformance.judging.facts import Aspect, Difference, Place
from conformance.judging.presumption import complete
from conformance.judging.verdicts import Violation
from conformance.oracles.programs import ProgramOracle
from conformance.subjects.building import flatten
from conformance.subjects.linear import RankSession
from conformance.subjects.outcomes import NotExercised
from conformance.subjects.programs import ModelSession, observe_model
from conformance.subjects.subject import Subject
from conformance.suite.clauses import check
from strategies.cases import Case
from strategies.choices import sampled
from strategies.drawing import cases
from strategies.program_drawing import frames
from strategies.programs import Program
from strategies.ranks import RankQuestion, rank_questions
from strategies.tree_drawing import models


def chosen(subject: Subject, question: RankQuestion) -> int | Exception:
    """The rank chosen, or the refusal; anything else that is raised is a violation."""
    __tracebackhide__ = True
    try:
        return subject.implementation.warmup_rank(
            default=question.default, max_lora_rank=question.max_lora_rank, shards=question.shards
        )
    except Exception as error:
        if isinstance(error, subject.implementation.refusals):
            return error
        raise Violation("raised", told(error), question) from error


def multiple_of(question: RankQuestion) -> int:
    """What the rank must be a multiple of."""
    return math.lcm(*question.shards)


# Their least common multiple is 96 at most, so something always fits; RANK-4 has the questions where nothing does.
CUTTING = rank_questions(parts=(2, 4, 8, 16, 32, 3, 6, 12), max_ranks=(128, 256, 320, 512))


@check("RANK-1", CUTTING)
def test_the_rank_divides_evenly_over_every_module_that_cuts_it(subject: Subject, question: RankQuestion) -> None:
    rank, multiple = chosen(subject, question), multiple_of(question)
    if multiple > question.max_lora_rank:
        raise NotExercised("no multiple fits max_lora_rank (see RANK-4)")
    if isinstance(rank, Exception):
        raise Violation("rank-refused", f"refused though {multiple} fits: {rank}", question)
    if rank % multiple or not 0 < rank <= question.max_lora_rank:
        raise Violation("rank-indivisible", Difference(Aspect.RANK, rank, f"a multiple of {multiple}"), question)


@check("RANK-2", CUTTING)
def test_it_is_the_smallest_multiple_from_the_default_up(subject: Subject, question: RankQuestion) -> None:
    multiple = multiple_of(question)
    right = -(-question.default // multiple) * multiple
    if right > question.max_lora_rank:
        raise NotExercised("the smallest multiple above the default does not fit (see RANK-4)")
    rank = chosen(subject, question)
    if rank != right:
        raise Violation(_no_smallest(rank, multiple), Difference(Aspect.RANK, rank, right), question)


def _no_smallest(rank: int | Exception, multiple: int) -> str:
    """What is wrong with a rank that is not the smallest multiple."""
    return "rank-indivisible" if isinstance(rank, int) and rank % multiple else "rank-not-smallest"


@check("RANK-3", rank_questions(parts=(1,), max_ranks=(8, 16, 64)))
def test_it_is_the_default_where_nothing_cuts_the_rank(subject: Subject, question: RankQuestion) -> None:
    rank = chosen(subject, question)
    if rank != question.default:
        raise Violation("rank-not-default", Difference(Aspect.RANK, rank, question.default), question)


def _without_room(question: RankQuestion) -> RankQuestion:
    """The same question with less room than the smallest multiple from the default up needs."""
    multiple = multiple_of(question)
    needed = -(-question.default // multiple) * multiple
    return replace(question, max_lora_rank=min(question.max_lora_rank, needed - 1))


# Parts of 3 and 6 leave a multiple below the default, the larger ones leave none.
@check("RANK-4", rank_questions(parts=(12, 3, 6, 16, 32), max_ranks=(8, 1, 16, 20)).map(_without_room))
def test_where_nothing_from_the_default_up_fits_it_takes_less_or_says_why(
    subject: Subject, question: RankQuestion
) -> None:
    multiple = multiple_of(question)
    rank = chosen(subject, question)
    if multiple <= question.max_lora_rank:
        right = question.max_lora_rank // multiple * multiple
        if isinstance(rank, Exception) and _explains(rank, question):
            return  # the largest multiple below is a SHOULD; a clear error is enough
        if rank != right:
            difference = Difference(Aspect.RANK, repr(rank), f"{right}, or an error that says why")
            raise Violation("rank-indivisible", difference, question)
    elif not isinstance(rank, Exception):
        raise Violation(
            "rank-indivisible", Difference(Aspect.RANK, rank, f"an error, as no multiple of {multiple} fits"), question
        )
    elif not _explains(rank, question):
        raise Violation("unclear-refusal", f"the error does not name default, multiple and maximum: {rank}", question)


def _explains(error: Exception, question: RankQuestion) -> bool:
    numbers = (question.default, multiple_of(question), question.max_lora_rank)
    return all(str(number) in str(error) for number in numbers)


@check("RANK-5", cases(adapters=(1, 1), without_adapter=False, max_ranks=(32, 64)).map(complete))
def test_a_dummy_adapter_loads_everywhere_and_changes_nothing(subject: Subject, case: Case) -> None:
    shards = (case.layer_tp_size,) if case.fully_sharded else (1,)
    rank = chosen(subject, RankQuestion(max_lora_rank=case.max_rank, shards=shards))
    if isinstance(rank, Exception):
        raise NotExercised(f"no warm-up rank: {rank}")

    def program(session: RankSession) -> tuple[list[Tensor], list[Tensor]]:
        bare = [output.clone() for output in flatten(session.build().run())]
        return bare, flatten(session.wrap().load_dummies(rank).run())

    for outputs in observed(subject, case, program):
        bare, warmed = outputs
        assert_same_bits(
            case, warmed, bare, anomaly="adapter-leak", place=Place(setting=f"a dummy adapter of rank {rank}")
        )


def warmed(program: Program, *, cut: bool) -> Program:
    """``program`` with a largest rank that its ranks divide, and adapters that are fully sharded, or are not."""
    ranks = program.model.tp_size
    return replace(program, fully_sharded=cut and ranks > 1, max_rank=24 if ranks == 3 else 16)


def cramped(program: Program) -> Program:
    """Fully sharded, with the largest rank below the default."""
    ranks = program.model.tp_size
    return replace(program, fully_sharded=True, max_rank=4 if ranks == 4 else 6)


DEFAULT = 8
# Three ranks do not divide the default; the others are seen to change nothing.
TREES = sampled((3, 2, 4), "ranks").flatmap(
    lambda ranks: models(linears=(2, 4), others=(0, 1), plain=True, tp_sizes=(ranks,), towers=False)
)
MODELS = frames(trees=TREES, adapters=(1,), max_ranks=(4,), disk=(False,))


def require_room(program: Program, rank: int) -> None:
    """What shrinking makes of a program may leave no room for the rank that the clause is about."""
    if not 0 < rank <= program.max_rank:
        raise NotExercised(f"rank {rank} does not fit {program.max_rank}")


def chosen_in(subject: Subject, program: Program) -> tuple[int, int]:
    """The rank that a model is warmed up with, and what it must be a multiple of."""
    __tracebackhide__ = True

    def warm(session: ModelSession) -> tuple[int, int]:
        manager = session.build().wrap().require_wrapped().manager
        parts = manager.rank_parts()
        if parts is None:
            cut = program.fully_sharded and any(m.layer.family.shards_output for m in program.model.linears)
            parts = [program.model.tp_size if cut else 1]
        with subject.implementation.layers.ranked(session.group), manager.warmed_up(1, DEFAULT) as rank:
            return rank, math.lcm(*parts)

    with raising(program):
        shown = observe_model(subject, ProgramOracle(program), warm)
    if len(set(shown)) > 1:
        raise Violation("order-dependent", f"the ranks warm up with {sorted(set(shown))}", program)
    return shown[0]


@check("RANK-1", MODELS.map(partial(warmed, cut=True)))
def test_the_rank_of_a_model_divides_evenly_over_every_layer(subject: Subject, program: Program) -> None:
    rank, multiple = chosen_in(subject, program)
    if rank % multiple or not 0 < rank <= program.max_rank:
        raise Violation("rank-indivisible", Difference(Aspect.RANK, rank, f"a multiple of {multiple}"), program)


@check("RANK-2", MODELS.map(partial(warmed, cut=True)))
def test_the_rank_of_a_model_is_the_smallest_from_the_default_up(subject: Subject, program: Program) -> None:
    rank, multiple = chosen_in(subject, program)
    right = -(-DEFAULT // multiple) * multiple
    require_room(program, right)
    if rank != right:
        raise Violation(_no_smallest(rank, multiple), Difference(Aspect.RANK, rank, right), program)


@check("RANK-3", MODELS.map(partial(warmed, cut=False)))
def test_the_rank_of_a_model_that_cuts_none_is_the_default(subject: Subject, program: Program) -> None:
    rank, _ = chosen_in(subject, program)
    require_room(program, DEFAULT)
    if rank != DEFAULT:
        raise Violation("rank-not-default", Difference(Aspect.RANK, rank, DEFAULT), program)


@check("RANK-4", MODELS.map(cramped))
def test_the_rank_of_a_model_with_little_room_is_the_largest_that_fits(subject: Subject, program: Program) -> None:
    rank, multiple = chosen_in(subject, program)
    right = program.max_rank // multiple * multiple
    if rank != right:
        raise Violation("rank-indivisible", Difference(Aspect.RANK, rank, right), program)
