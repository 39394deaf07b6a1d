"""RANK: the dummy warm-up rank."""

from __future__ import annotations

import math
from dataclasses import replace

from torch import Tensor

from conformance.assertions import assert_same_bits, observed
from conformance.checking import check
from conformance.oracle import flatten
from conformance.presumption import complete
from conformance.subject import RankSession, Subject
from conformance.verdicts import NotExercised, violation
from strategies.cases import Case
from strategies.drawing import cases
from strategies.ranks import RankQuestion, rank_questions


def chosen(subject: Subject, question: RankQuestion) -> int | Exception:
    """The rank chosen, or the refusal; anything else that is raised is a violation."""
    __tracebackhide__ = True
    try:
        return subject.implementation.warmup_rank(
            default=question.default, max_lora_rank=question.max_lora_rank, shards=question.shards
        )
    except subject.implementation.refusals as error:
        return error
    except Exception as error:
        raise violation("raised", f"{type(error).__name__}: {error}", question) from error


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
        raise violation("rank-refused", f"refused though {multiple} fits: {rank}", question)
    if rank % multiple or not 0 < rank <= question.max_lora_rank:
        raise violation("rank-indivisible", f"rank {rank}, but should be a multiple of {multiple}", question)


@check("RANK-2", CUTTING)
def test_it_is_the_smallest_multiple_from_the_default_up(subject: Subject, question: RankQuestion) -> None:
    multiple = multiple_of(question)
    right = -(-question.default // multiple) * multiple
    if right > question.max_lora_rank:
        raise NotExercised("the smallest multiple above the default does not fit (see RANK-4)")
    rank = chosen(subject, question)
    if rank != right:
        raise violation("rank-not-smallest", f"rank {rank}, but should be {right}", question)


@check("RANK-3", rank_questions(parts=(1,), max_ranks=(8, 16, 64)))
def test_it_is_the_default_where_nothing_cuts_the_rank(subject: Subject, question: RankQuestion) -> None:
    rank = chosen(subject, question)
    if rank != question.default:
        raise violation("rank-not-default", f"rank {rank}, but should be {question.default}", question)


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
            raise violation(
                "rank-indivisible", f"{rank!r}, but should be {right}, or an error that says why", question
            )
    elif not isinstance(rank, Exception):
        raise violation("rank-indivisible", f"rank {rank}, though no multiple of {multiple} fits", question)
    elif not _explains(rank, question):
        raise violation("unclear-refusal", f"the error does not name default, multiple and maximum: {rank}", question)


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
        assert_same_bits(case, warmed, bare, anomaly="adapter-leak", what=f"a dummy adapter of rank {rank}")
