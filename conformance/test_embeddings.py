"""MATH-14 and MATH-15: embeddings and LM heads over a sharded, padded vocabulary."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from conformance.assertions import raised
from conformance.checking import check
from conformance.engines.ranks import CollectiveMismatch, RankFailed, RankGroup
from conformance.implementations.vocabulary import VocabularyServer, VocabularyWeights
from conformance.subject import Subject, cast_adapter
from conformance.values import torch_dtype
from conformance.verdicts import NotApplicable, NotExercised, Violation
from lora_compat.adapters import LayerAdapter, SubAdapter
from strategies.vocabulary import VocabularyCase, VocabularyLayer, vocabulary_cases


@dataclass(frozen=True, slots=True, eq=False)
class VocabularyTensors:
    """The unsharded tensors of a case, float64."""

    weights: VocabularyWeights
    adapters: tuple[LayerAdapter, ...]
    hidden: Tensor


def tensors_of(case: VocabularyCase) -> VocabularyTensors:
    """Integers of -1, 0 and 1: at most 5 columns, rank 4 and a factor of 4 stay exact in bfloat16."""
    generator = torch.Generator().manual_seed(case.seed)

    def draw(*shape: int) -> Tensor:
        return torch.randint(-1, 2, shape, generator=generator).double()

    embeds = case.layer is VocabularyLayer.EMBEDDING
    adapters = []
    for _, rank in case.adapters:
        ids = case.original if case.for_original else case.vocabulary
        a, b = (draw(rank, ids), draw(case.width, rank)) if embeds else (draw(rank, case.width), draw(ids, rank))
        adapters.append(LayerAdapter((SubAdapter(a, b),), scaling=2.0))
    bias = draw(case.vocabulary) if case.bias else None
    return VocabularyTensors(
        VocabularyWeights(draw(case.vocabulary, case.width), bias),
        tuple(adapters),
        draw(len(case.tokens), case.width),
    )


def dense(case: VocabularyCase, tensors: VocabularyTensors, *, adapted: bool = True) -> Tensor:
    """What merged weights give, without any layer: rows of ``W + s·B·A``, zeros outside the vocabulary, or logits."""
    rows = []
    for index, (adapter, token_id) in enumerate(zip(case.tokens, case.ids, strict=True)):
        weight = tensors.weights.weight.clone()
        if adapter >= 0 and adapted:
            part = tensors.adapters[adapter].parts[0]
            assert part is not None
            delta = 2.0 * (part.lora_b @ part.lora_a)
            delta = delta.t() if case.layer is VocabularyLayer.EMBEDDING else delta
            weight[: delta.shape[0]] += delta
        if case.layer is VocabularyLayer.EMBEDDING:
            known = 0 <= token_id < case.vocabulary
            rows.append(weight[token_id] if known else torch.zeros(case.width, dtype=torch.float64))
        else:
            bias = 0.0 if tensors.weights.bias is None else tensors.weights.bias
            rows.append(weight @ tensors.hidden[index] + bias)
    return torch.stack(rows) * case.multiplier


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
    given = torch.tensor(case.ids) if case.layer is VocabularyLayer.EMBEDDING else tensors.hidden
    given = given if given.dtype == torch.int64 else given.to(torch_dtype(case.dtype))
    given = given.unsqueeze(0) if case.two_dimensions else given

    def program(group: RankGroup) -> tuple[Tensor, Tensor, Tensor]:
        server: VocabularyServer = serve(case, tensors.weights.to(subject.device), group)
        mine = given.to(subject.device, copy=True)
        bare = server.run(None, mine).to("cpu", copy=True)
        for (slot, _), adapter in zip(case.adapters, tensors.adapters, strict=True):
            server.load(slot, cast_adapter(adapter, torch_dtype(case.dtype), subject.device))
        return bare, server.run(case.token_slots, mine).cpu(), mine.cpu()

    try:
        seen = subject.engine.run(case.tp_size, program)
    except (CollectiveMismatch, RankFailed) as error:
        raise raised(error, case) from error
    right = dense(case, tensors)
    without = [index for index, adapter in enumerate(case.tokens) if adapter < 0]
    for rank, (bare, output, mine) in enumerate(seen):
        assert_equal(case, mine, given, f"rank {rank}, what was handed in", "input-written")
        assert_equal(case, output, right, f"rank {rank}", "unexplained")
        assert_equal(case, bare, dense(case, tensors, adapted=False), f"rank {rank}, bare", "base-changed")
        flat = output.reshape(right.shape)
        assert_equal(case, flat[without], bare.reshape(right.shape)[without], f"rank {rank}", "adapter-leak")
    if torch.equal(right, dense(case, tensors, adapted=False)) and not without:
        raise NotExercised("the adapters change nothing")


def assert_equal(case: VocabularyCase, output: Tensor, right: Tensor, where: str, anomaly: str) -> None:
    """Equality, whatever the dimensions before the last."""
    __tracebackhide__ = True
    if output.numel() != right.numel():
        raise Violation("gather-inflated", f"{where}: {tuple(output.shape)}, but should be {tuple(right.shape)}", case)
    wrong = (output.reshape(right.shape).double() != right.double()).nonzero()
    if len(wrong):
        place = tuple(wrong[0].tolist())
        got, should = float(output.reshape(right.shape)[place]), float(right[place])
        raise Violation(anomaly, f"{where}: out{list(place)}={got:g}, but should be {should:g}", case)


@check("MATH-14", vocabulary_cases(VocabularyLayer.EMBEDDING))
def test_an_embedding_gives_what_merged_rows_give(subject: Subject, case: VocabularyCase) -> None:
    assert_serves_the_vocabulary(subject, case)


@check("MATH-15", vocabulary_cases(VocabularyLayer.LM_HEAD))
def test_logits_are_those_of_merged_weights_in_the_order_of_the_ids(subject: Subject, case: VocabularyCase) -> None:
    assert_serves_the_vocabulary(subject, case)
