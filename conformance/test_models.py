"""MODEL: from an adapter file to a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch

from conformance.implementations.models import EXPERTS
from conformance.judging.anomalies.models import VANISHED
from conformance.judging.company import require_untouched
from conformance.judging.facts import Place
from conformance.judging.logits import require_logits
from conformance.judging.model_facts import Lost
from conformance.judging.models import (
    raised,
    reaches,
    require_apart,
    require_feature,
    require_same,
    require_same_writing,
    rows_added,
    unnamed,
)
from conformance.judging.ranks_of_models import require_same_on_all_ranks
from conformance.judging.served_models import (
    in_part,
    on_all,
    presume_served,
    programs_of,
    require_loaded,
    require_restricted,
    require_served,
)
from conformance.judging.verdicts import Violation
from conformance.oracles.logits import exact_logits
from conformance.subjects.models.checkpoints import content_of
from conformance.subjects.models.observing import Readings, Refusal
from conformance.subjects.models.programs import Programs
from conformance.subjects.models.traits import has_towers
from conformance.subjects.models.writings import writings
from conformance.subjects.outcomes import FileRefused, NotApplicable, NotExercised
from conformance.subjects.subject import Subject
from conformance.suite.clauses import check
from strategies.models.cases import ModelCase, featured_cases, model_cases, restricted_cases


@check("MODEL-1", model_cases(tp_sizes=(1, 1, 2)))
def test_every_tensor_of_the_file_changes_what_is_computed_or_is_refused_by_name(
    subject: Subject, case: ModelCase
) -> None:
    programs = programs_of(subject, case)
    chain = programs.chain
    ranks = on_all(subject, case, programs.one_by_one)
    base, right, refusal, first = ranks[0]
    if refusal is not None and not refusal.named(chain):
        raise unnamed(case, refusal, chain.file.pairs, "loading the adapter")
    added = rows_added(base, right) if case.tp_size == 1 else ()
    looked_at: int = 0
    lost: list[tuple[Lost, str]] = []
    for number, one in enumerate(first):
        owners = [pair for pair in chain.file.pairs if pair.key_a in one.keys]
        if case.tp_size == 1 and not reaches(owners, added):
            continue  # the class serves no such module
        looked_at += 1
        on_each = [rank[3][number] for rank in ranks]
        if isinstance(one.by_itself, Refusal):
            if not one.by_itself.named(chain):
                raise unnamed(case, one.by_itself, owners, f"loading {one.keys[-1]} by itself")
            continue
        alone = any(rank.by_itself for rank in on_each)
        if not (alone and any(rank.among_others for rank in on_each)):
            whole = len(chain.file.keys_by_module()) == 1
            lost.append((Lost(one.keys, among_others=alone, whole=whole), owners[0].role if owners else ""))
    require_none(case, lost)
    if not looked_at:
        raise NotExercised("the merged checkpoint computes what the base does: the class serves no such module")


def require_none(case: ModelCase, lost: Sequence[tuple[Lost, str]]) -> None:
    """Raises where tensors, each with the role of their module, change nothing."""
    if lost:
        (first, role), *others = lost
        alike = tuple(one.keys[-1] for one, its in others if its == role)
        more = tuple((its, one.among_others, one.keys) for one, its in others if its != role)
        raise Violation(VANISHED, replace(first, alike=alike, more=more), case, Place(role=role))


@check("MODEL-2", model_cases(saved=False))
def test_base_and_adapter_are_the_merged_checkpoint(subject: Subject, case: ModelCase) -> None:
    in_part(subject, case, partial(require_right, subject))


def require_right(subject: Subject, case: ModelCase) -> None:
    """Raises where the model with the adapter is not the merged checkpoint, and no tensor has vanished."""
    __tracebackhide__ = True
    try:
        require_served(subject, case)
    except Violation as found:
        if found.anomaly == VANISHED:
            raise NotExercised(f"wrong without what MODEL-2 is about already [{VANISHED}]") from found
        raise


@check("MODEL-3", model_cases(tp_sizes=(1,), saved=False))
def test_any_way_of_writing_the_adapter_gives_the_same(subject: Subject, case: ModelCase) -> None:
    in_part(subject, case, partial(require_same_of_all_writings, subject))


def require_same_of_all_writings(subject: Subject, case: ModelCase) -> None:
    """Raises where one way of writing the adapter gives what another does not."""
    __tracebackhide__ = True
    programs = programs_of(subject, case)
    others = writings(case, programs.chain)
    (seen,) = on_all(subject, case, partial(programs.written, others))
    base, plain = seen[0]
    require_loaded(programs.chain, [plain])
    assert not isinstance(plain, Refusal)
    for name, (_, one) in zip([other.name for other in others], seen[1:], strict=True):
        if isinstance(one, Refusal) and not one.named(programs.chain):
            raise unnamed(case, one, programs.chain.file.pairs, f"written {name}")
    loaded = [(way.name, one) for way, (_, one) in zip(others, seen[1:], strict=True) if not isinstance(one, Refusal)]
    if not loaded:
        raise FileRefused("one way of writing it alone is taken, the others are refused by name")
    for name, one in loaded:
        require_same_writing(case, programs.chain, name, base, plain, one)


@check("MODEL-4", model_cases(saved=False))
def test_lora_switched_on_changes_nothing_by_itself(subject: Subject, case: ModelCase) -> None:
    for rank, (bare, before, after) in enumerate(on_all(subject, case, programs_of(subject, case).switched_on)):
        comparable = without_experts(bare) if bare.keys() == before.keys() else of_one_layout(bare, before)
        require_same(case, comparable, before, rank, "with LoRA switched on and no adapter")
        require_same(case, comparable, after, rank, "after an adapter was used and removed")


def without_experts(readings: Readings) -> Readings:
    """Without the experts' weights, which another kernel serves where LoRA is off, in a layout of its own."""
    return {
        name: {part: tensor for part, tensor in parts.items() if part not in EXPERTS}
        for name, parts in readings.items()
    }


def of_one_layout(bare: Readings, served: Readings) -> Readings:
    """Without what a class that is built of other modules with LoRA has in another layout there, experts too."""
    return {
        name: {part: tensor for part, tensor in parts.items() if _shape(served, name, part) == tensor.shape}
        for name, parts in without_experts(bare).items()
    }


def _shape(readings: Readings, name: str, part: str) -> torch.Size | None:
    found = readings.get(name, {}).get(part)
    return None if found is None else found.shape


@check("MODEL-5", model_cases(saved=False))
def test_loading_leaves_everything_else_as_it_was(subject: Subject, case: ModelCase) -> None:
    in_part(subject, case, partial(require_untouched, subject))


@check("MODEL-6", model_cases(saved=False))
def test_a_class_that_declares_lora_support_starts_with_it(subject: Subject, case: ModelCase) -> None:
    for refusal in started(subject, case, programs_of(subject, case)):
        if refusal is not None:
            place = Place(setting=f"with {' and '.join(('LoRA', *case.options))}")
            raise Violation("does-not-start", raised(refusal), case, place)


def started(subject: Subject, case: ModelCase, programs: Programs) -> list[Refusal | None]:
    """How the start broke off on each rank.

    A model that cannot be loaded at all, LoRA or not, is not applicable, unless LoRA is said to be in the way.
    """
    __tracebackhide__ = True
    try:
        return on_all(subject, case, programs.started)
    except NotApplicable as error:
        try:
            on_all(subject, case, programs.loaded_bare)
        except NotApplicable:
            if "LoRA" not in str(error):
                raise error from None
        return [Refusal("NotApplicable", str(error))]


@check("MODEL-7", model_cases(tp_sizes=(2, 4), saved=False))
def test_the_result_does_not_depend_on_the_ranks(subject: Subject, case: ModelCase) -> None:
    several = replace(case, tp_size=max(2, case.tp_size))
    in_part(subject, several, partial(require_same_on_all_ranks, subject), everywhere=True)


@check("MODEL-8", model_cases(tp_sizes=(1,), saved=False))
def test_logits_are_those_of_pefts_own_model(subject: Subject, case: ModelCase) -> None:
    in_part(subject, case, partial(require_right_logits, subject))


def require_right_logits(subject: Subject, case: ModelCase) -> None:
    """Raises where every module is served rightly, and the model as a whole is not."""
    __tracebackhide__ = True
    programs = programs_of(subject, case)
    exact = exact_logits(case, programs.chain)
    (seen,) = on_all(subject, case, partial(programs.logits, exact.tokens))
    require_loaded(programs.chain, [seen])
    right = exact.with_bounds(case, programs.chain)
    assert not isinstance(seen, Refusal)
    try:
        require_logits(case, right, *seen)
    except Violation as found:
        presume_served(subject, case, "MODEL-8")
        raise found


@check("MODEL-9", featured_cases())
def test_what_an_adapter_brings_besides_counts_or_is_refused(subject: Subject, case: ModelCase) -> None:
    if not case.adapter.feature:
        raise NotApplicable("the adapter is A, B and a scaling")
    programs = programs_of(subject, case)
    for seen in on_all(subject, case, partial(programs.featured, case.adapter.feature)):
        require_feature(case, programs.chain, *seen)


@check("MODEL-10", model_cases(tp_sizes=(1,), saved=False))
def test_towers_and_language_model_go_by_their_own_tokens(subject: Subject, case: ModelCase) -> None:
    if not has_towers(content_of(case)):
        raise NotApplicable("the model neither sees nor hears")
    in_part(subject, case, partial(require_own_tokens, subject))


def require_own_tokens(subject: Subject, case: ModelCase) -> None:
    """Raises where what an adapter adds to a part of a model depends on the tokens of another part."""
    __tracebackhide__ = True
    programs = programs_of(subject, case)
    (seen,) = on_all(subject, case, programs.apart)
    require_loaded(programs.chain, [seen])
    assert not isinstance(seen, Refusal)
    require_apart(case, *seen)


@check("MODEL-11", restricted_cases())
def test_what_lora_is_restricted_to_is_served_and_the_rest_refused(subject: Subject, case: ModelCase) -> None:
    if not case.deployment.modules:
        raise NotApplicable("LoRA is not restricted to some modules")
    require_restricted(subject, case)
