"""What happened to an embedding or an LM head, by name: each known mistake is computed, the one that matches named."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from conformance.judging.anomalies import UNEXPLAINED, constant, unexplained_if_it_fails
from conformance.judging.anomalies.rank_mistakes import gathered_mistakes
from conformance.judging.anomalies.traits import common_trait
from conformance.judging.anomalies.vocabulary_answers import Answers
from conformance.judging.anomalies.vocabulary_places import (
    Sources,
    cut_mistakes,
    gathering_mistakes,
    held,
    lookup_mistakes,
)
from conformance.oracles.linear import Expected
from conformance.values.vocabulary import VocabularyTensors
from strategies.cases import Case
from strategies.vocabulary import VocabularyCase

Outputs = Sequence[Tensor]
NO_ID = -1


@unexplained_if_it_fails
def explain(case: VocabularyCase, tensors: VocabularyTensors, outputs: Outputs) -> str:
    """The name of the first known mistake that gives exactly ``outputs [tokens, width or ids]``, one of each rank.

    First come mistakes whose whole outcome can be computed, then tokens that were served another adapter, then what
    the wrong tokens have in common; ``unexplained`` if nothing fits.
    """
    answers = Answers(case, tensors)
    seen = [output.double().reshape(answers.right.shape) for output in outputs]
    tokens = range(len(case.tokens))
    exact = _exact(answers, seen, list(tokens))
    if exact is not None:
        return exact
    known = [token for token in tokens if not answers.embeds or 0 <= case.ids[token] < case.vocabulary]
    wrong = [[token for token in known if not torch.equal(one[token], answers.right[token])] for one in seen]
    if not any(wrong):
        return "mask-skipped"  # zeros are right for an id that nobody holds, whatever it was served
    exact = _exact(answers, seen, known)
    if exact is not None:
        return exact
    if _is_unmasked(answers, seen, wrong):
        return "mask-skipped"
    by_token = _by_token(answers, seen, wrong)
    if by_token is not None:
        return by_token
    expected = Expected((answers.right,), (), (answers.base,), (True,))
    trait = common_trait(Case(tokens=case.tokens, dtype=case.dtype), [[one] for one in seen], [expected] * len(seen))
    if trait is not None:
        return trait
    return "delta-misplaced" if _is_misplaced(answers, seen, wrong) else UNEXPLAINED


def _exact(answers: Answers, seen: Outputs, tokens: list[int]) -> str | None:
    """The first mistake that gives what these tokens got on every rank."""
    for name, would_be in _mistakes(answers):
        if all(torch.equal(one[tokens], would_be(rank)[tokens]) for rank, one in enumerate(seen)):
            return name
    return None


def _mistakes(answers: Answers) -> Iterator[tuple[str, Callable[[int], Tensor]]]:
    """Each known mistake with what a rank would have returned.

    First those that need ranks or added ids: what needs neither shrinks to cases without them.
    """
    case, base, right, scale = answers.case, answers.base, answers.right, answers.scale
    added = answers.added(answers.deltas)

    def same(output: Tensor) -> Callable[[int], Tensor]:
        return lambda rank: output

    for name, sources in cut_mistakes(case):
        yield name, same(answers.with_deltas([_from(delta, sources) for delta in answers.deltas]))
    yield "delta-dropped", same(base)
    if scale != 1:  # before mistakes of the adapter's scaling, which may look alike with one multiplier, not with all
        yield "delta-outside-forward", same(base + added)
        yield "base-forward-bypassed" if answers.embeds else "scale-dropped", same(right / scale)
    yield "scale-dropped", same(base + scale * added / answers.tensors.adapters[0].scaling)
    yield "delta-doubled", same(base + 2 * scale * added)
    yield "scale-wrong", same(base - scale * added)
    if answers.tensors.weights.bias is not None:
        bias = scale * answers.tensors.weights.bias
        yield "bias-dropped", same(right - bias)
        yield "bias-doubled", same(right + bias)
    if answers.embeds:
        yield from _mistakes_of_lookups(answers)
        return
    for name, of_rank in gathering_mistakes(case):
        yield name, partial(_gathered, right, of_rank)
    if case.fully_sharded:
        for name, adapters_of in gathered_mistakes(case.max_rank, case.tp_size, answers.tensors.adapters):
            of_ranks = [[answers.contribution(one) for one in adapters_of(rank)] for rank in range(case.tp_size)]
            yield name, same(answers.with_deltas(_by_owner(case, of_ranks)))


def _mistakes_of_lookups(answers: Answers) -> Iterator[tuple[str, Callable[[int], Tensor]]]:
    """Ids looked up in the wrong place, or by ranks that do not hold them."""
    case, ranks = answers.case, held(answers.case)
    for name, sources in lookup_mistakes(case):
        there = answers.of_ids(_source(sources, one) for one in case.ids)
        yield name, constant(there)
    mine = [torch.tensor([[one in ids] for one in case.ids]) for ids in ranks]
    for factor in (answers.scale, 1.0):
        added = factor * answers.added(answers.deltas)
        of_ranks = [answers.base + torch.where(own, added, 0.0) for own in mine]
        yield "gather-skipped", of_ranks.__getitem__
    # What a rank has for its first id, or its last, served for others too, and summed over the ranks.
    for end, beyond in ((0, False), (-1, False), (-1, True)):
        extra = torch.zeros_like(answers.right)
        for ids in ranks:
            known = [one for one in ids if one is not None] or [NO_ID]
            extra += answers.of_ids(
                known[end] if one not in ids and (one > known[-1] or not beyond) else NO_ID for one in case.ids
            )
        yield "mask-skipped", constant(answers.right + extra)


def _gathered(right: Tensor, of_rank: Callable[[int], Sources], rank: int) -> Tensor:
    """The logits as a rank that gathers them like this has them."""
    return _from(right.t(), of_rank(rank)).t()


def _source(sources: Sources, token_id: int) -> int:
    found = sources[token_id] if 0 <= token_id < len(sources) else None
    return NO_ID if found is None else found


def _from(rows: Tensor, sources: Sources) -> Tensor:
    """The rows of other ids; zeros where the source is padding."""
    return torch.stack([rows[0] * 0 if one is None else rows[one] for one in sources])


def _by_owner(case: VocabularyCase, of_ranks: list[list[Tensor]]) -> list[Tensor]:
    """For each adapter the rows of every id as the rank that holds it has them."""
    merged = [table.clone() for table in of_ranks[0]]
    for rank, ids in enumerate(held(case)):
        mine = [one for one in ids if one is not None]
        for table, own in zip(merged, of_ranks[rank], strict=True):
            table[mine] = own[mine]
    return merged


def _by_token(answers: Answers, seen: Outputs, wrong: list[list[int]]) -> str | None:
    """Tokens that were served another adapter than their own, or none."""
    names = set()
    for rank, tokens in enumerate(wrong):
        for token in tokens:
            own, row = answers.case.tokens[token], seen[rank][token]
            served = [
                one for one in range(-1, len(answers.deltas)) if torch.equal(row, answers.of_adapter(token, one))
            ]
            if not served:
                return None
            names.add("adapter-leak" if own < 0 else "delta-dropped" if -1 in served else "wrong-slot")
    return names.pop() if len(names) == 1 else "wrong-slot" if names else None


def _is_unmasked(answers: Answers, seen: Outputs, wrong: list[list[int]]) -> bool:
    """Whether ids that their rank does not hold were served the contribution of one it holds.

    What it does hold may be added outside the forward besides, without the multiplier.
    """
    if not answers.embeds:
        return False
    case = answers.case
    for rank, ids in enumerate(held(case)):
        for token in wrong[rank]:
            token_id, own = case.ids[token], case.tokens[token]
            mine = [one for one in ids if one is not None and (token_id not in ids or one == token_id)]
            rows = [answers.deltas[own][one] for one in mine] if own >= 0 else []
            served = [answers.base[token] + factor * row for row in rows for factor in (1.0, answers.scale)]
            if token_id not in ids:
                served.append(answers.base[token])  # the row it was served is padding
            if not any(torch.equal(seen[rank][token], one) for one in served):
                return False
    return True


def _is_misplaced(answers: Answers, seen: Outputs, wrong: list[list[int]]) -> bool:
    """Whether every wrong token of an embedding got what its adapter has for another id, or makes of another's A."""
    if not answers.embeds or any(answers.case.tokens[token] < 0 for tokens in wrong for token in tokens):
        return False
    rows = [answers.of_any_id(own) for own in range(len(answers.deltas))]
    return all(
        bool(
            (seen[rank][token] == answers.base[token] + answers.scale * rows[answers.case.tokens[token]]).all(1).any()
        )
        for rank, tokens in enumerate(wrong)
        for token in tokens
    )
