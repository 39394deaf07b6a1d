"""MATH-14 and MATH-15: embeddings and LM heads over a sharded, padded vocabulary."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from conformance.engines.ranks import RankGroup
from conformance.implementations.dtypes import torch_dtype
from conformance.implementations.vocabulary import VocabularyServer, VocabularyWeights
from conformance.judging.anomalies import UNEXPLAINED
from conformance.judging.anomalies.vocabulary import explain
from conformance.judging.assertions import assert_equal, raising
from conformance.judging.facts import AFTER_A_RESET, Place
from conformance.oracles.vocabulary import dense
from conformance.subjects.linear import cast_adapter
from conformance.subjects.outcomes import NotApplicable, NotExercised
from conformance.subjects.reused_slots import served
from conformance.subjects.subject import Subject
from conformance.suite.clauses import check
from conformance.values.vocabulary import VocabularyTensors, given_of, tensors_of
from lora_compat.adapters import LayerAdapter
from strategies.vocabulary import VocabularyCase, VocabularyLayer, vocabulary_cases

Serving = Callable[[VocabularyCase, VocabularyWeights, RankGroup], VocabularyServer]
RIGHT = ""


@dataclass(frozen=True, slots=True)
class Served:
    """What one rank gives: bare, with adapters, and after they were reset; and what it was handed, afterwards."""

    bare: Tensor
    output: Tensor
    emptied: Tensor
    given: Tensor


def assert_serves_the_vocabulary(subject: Subject, case: VocabularyCase) -> None:
    """Every rank gives what merged weights give, and adapter-less tokens keep the bare layer's bits."""
    __tracebackhide__ = True
    serve = getattr(subject.implementation, "vocabulary", None)
    if serve is None:
        raise NotApplicable(f"{subject.implementation.name} is not driven on embeddings and LM heads")
    reason = getattr(subject.implementation, "unsupported_vocabulary", lambda case: None)(case)
    if reason is not None:
        raise NotApplicable(reason)
    tensors = tensors_of(case)
    seen = _seen(subject, case, tensors, serve)
    right, plain = dense(case, tensors), dense(case, tensors, adapted=False)
    without = [index for index, adapter in enumerate(case.tokens) if adapter < 0]
    given = given_of(case, tensors)
    for rank, one in enumerate(seen):
        assert_equal(case, one.given, given, Place(rank=rank, setting="what was handed in"), "input-written")
    name = named(case, tensors, [one.output for one in seen], right)
    if name == UNEXPLAINED:  # then it may be the layer without adapters that is wrong
        for rank, one in enumerate(seen):
            assert_equal(case, one.bare, plain, Place(rank=rank, setting="bare"), "base-changed")
    if name != RIGHT:
        name = _named_plainly(subject, case, name, serve)
    for rank, one in enumerate(seen):
        assert_equal(case, one.output, right, Place(rank=rank), name)
        assert_equal(case, one.bare, plain, Place(rank=rank, setting="bare"), "base-changed")
        flat = one.output.reshape(right.shape)
        assert_equal(case, flat[without], one.bare.reshape(right.shape)[without], Place(rank=rank), "adapter-leak")
        assert_equal(case, one.emptied, plain, Place(rank=rank), "stale-slot", after=AFTER_A_RESET)
    if torch.equal(right, plain) and case.tokens and not without:
        raise NotExercised("the adapters change nothing")


def _seen(subject: Subject, case: VocabularyCase, tensors: VocabularyTensors, serve: Serving) -> list[Served]:
    """What every rank gives; nothing is reset where slots held nothing before."""
    __tracebackhide__ = True
    given = given_of(case, tensors)

    def program(group: RankGroup) -> Served:
        server = serve(case, tensors.weights.to(subject.device), group)
        mine = given.to(subject.device, copy=True)
        bare = server.run(None, mine).to("cpu", copy=True)

        def cast(adapter: LayerAdapter) -> LayerAdapter:
            return cast_adapter(adapter, torch_dtype(case.dtype), subject.device)

        former = None if tensors.former is None else cast(tensors.former)
        slots = [slot for slot, _ in case.adapters]
        run = partial(server.run, case.token_slots, mine)
        output, emptied = served(server, run, slots, [*map(cast, tensors.adapters)], former)
        return Served(bare, output, bare if emptied is None else emptied, mine.cpu())

    with raising(case):
        return subject.engine.run(case.tp_size, program)


def named(case: VocabularyCase, tensors: VocabularyTensors, outputs: list[Tensor], right: Tensor) -> str:
    """What is wrong with the outputs of all ranks; `RIGHT` if nothing is."""
    if any(output.numel() != right.numel() for output in outputs):
        return "gather-inflated"
    flat = [output.double().reshape(right.shape) for output in outputs]
    return RIGHT if all(torch.equal(one, right) for one in flat) else explain(case, tensors, flat)


def _named_plainly(subject: Subject, case: VocabularyCase, name: str, serve: Serving) -> str:
    """``name``, or that of a plainer case which is wrong already: in fresh slots, in one dimension, not multiplied.

    A row that follows its first token may look like a slot's, a rank's or an id's that is taken for another; where the
    same tokens are served rightly in one dimension, it is the layout. So it is with what fresh slots serve rightly.
    """
    __tracebackhide__ = True
    ways = (
        (replace(case, reused=False), "stale-slot"),
        (replace(case, two_dimensions=False), "layout-dependent"),
        (replace(case, multiplier=1), name),
    )
    plainer, why = next(((one, why) for one, why in ways if one != case), (case, name))
    if plainer == case:
        return name
    tensors = tensors_of(plainer)
    outputs = [one.output for one in _seen(subject, plainer, tensors, serve)]
    found = named(plainer, tensors, outputs, dense(plainer, tensors))
    if found != RIGHT:
        return _named_plainly(subject, plainer, found, serve)
    return why


@check("MATH-14", vocabulary_cases(VocabularyLayer.EMBEDDING))
def test_an_embedding_gives_what_merged_rows_give(subject: Subject, case: VocabularyCase) -> None:
    assert_serves_the_vocabulary(subject, case)


@check("MATH-15", vocabulary_cases(VocabularyLayer.LM_HEAD))
def test_logits_are_those_of_merged_weights_in_the_order_of_the_ids(subject: Subject, case: VocabularyCase) -> None:
    assert_serves_the_vocabulary(subject, case)
