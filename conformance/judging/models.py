"""Whether a model serves an adapter: every part of every module on every rank is that of the merged checkpoint."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from conformance.judging.anomalies.models import (
    VANISHED,
    PartDifference,
    explain,
    rows_of,
    sources_of,
    tensor_of,
)
from conformance.judging.facts import Aspect, Difference, Place, Raised, Remark
from conformance.judging.measuring import note
from conformance.judging.model_facts import Added
from conformance.judging.verdicts import Violation
from conformance.subjects.models.adapters import FilePair
from conformance.subjects.models.chains import Chain
from conformance.subjects.models.features import tells
from conformance.subjects.models.likeness import alike, differ
from conformance.subjects.models.observing import Readings, Refusal
from conformance.subjects.outcomes import NotApplicable, NotExercised
from strategies.models.cases import ModelCase

_NO_ERROR = torch.zeros(())


def differences(base: Readings, want: Readings, got: Readings, rank: int) -> list[PartDifference]:
    """The parts of one rank that are not what they have to be."""
    return [
        PartDifference(
            name, part, rank, _delta(base, name, part, right), _delta(base, name, part, got[name].get(part))
        )
        for name, parts in want.items()
        for part, right in parts.items()
        if not same(right, got[name].get(part))
    ]


def same(right: Tensor, seen: Tensor | None) -> bool:
    """Whether two tensors are equal bit for bit, no numbers in the same places; noted as an exact comparison."""
    if seen is None or seen.shape != right.shape:
        return False
    if torch.equal(seen, right):
        note(_NO_ERROR, _NO_ERROR, None)
        return True
    error = (seen.double() - right.double()).abs().nan_to_num(0.0)
    note(error, torch.zeros_like(error), None)
    return alike(seen, right)


def _delta(base: Readings, name: str, part: str, seen: Tensor | None) -> Tensor:
    """What is added to the base; nothing to what is no number and stays so, as padding that no checkpoint has."""
    bare = base[name][part].float()
    if seen is None or seen.shape != bare.shape:
        return torch.zeros_like(bare)
    return (seen.float() - bare).masked_fill_(seen.isnan() & bare.isnan(), 0.0)


def require_merged(
    case: ModelCase, chain: Chain, seen: Sequence[tuple[Readings, Readings, Readings]], how: str = ""
) -> None:
    """Raises a `Violation` for the first part that is not that of the merged checkpoint.

    ``seen`` has, for each rank, the readings of the base, of the merged checkpoint, and with the adapter.
    """
    wrong = [one for rank, (base, want, got) in enumerate(seen) for one in differences(base, want, got, rank)]
    if not wrong:
        return
    everything = {
        (name, part, rank): _delta(base, name, part, right)
        for rank, (base, want, _) in enumerate(seen)
        for name, parts in want.items()
        for part, right in parts.items()
    }
    named = [(explain(one, everything, chain.file.pairs), one) for one in wrong]
    lost = [pair for pair in named if pair[0] == VANISHED]  # MODEL-1's, with whatever is made of those modules
    without = {(one.module, one.rank) for _, one in lost}
    anomaly, first = ([pair for pair in named if (pair[1].module, pair[1].rank) not in without] or lost)[0]
    pair = tensor_of(first, chain.file.pairs)
    fact = _added(first, pair, len({one.module for one in wrong}) - 1)
    place = Place(rank=first.rank, module=first.module, setting=how, role=pair.role if pair else "")
    raise Violation(anomaly, fact, case, place)


def _added(wrong: PartDifference, pair: FilePair | None, others: int) -> Added:
    """The first wrong number, and the tensor of the file that it is of."""
    at = wrong.place
    actual, expected = (float(one[at]) if at else 0.0 for one in (wrong.got, wrong.want))
    return Added(wrong.part, at, actual, expected, pair.key_b if pair else "", others)


def require_apart(
    case: ModelCase, towers: Sequence[str], base: Readings, together: Readings, apart: Readings | Refusal
) -> None:
    """Raises a `Violation` where a module computes something else once the parts of the model have other tokens.

    Raises:
        NotApplicable: no module of ``towers`` has an adapter.
    """
    adapted = next((name for name in towers if differ({name: base[name]}, together)), None)
    if adapted is None:
        raise NotApplicable("no adapter of a tower is served")
    how = "in a batch of images and text"
    if isinstance(apart, Refusal):
        said = Raised(apart.kind, apart.message[:400], apart.site)
        raise Violation("others-tokens", said, case, Place(module=adapted, setting=how))
    require_same(case, together, apart, 0, how, "others-tokens")


def require_same(
    case: ModelCase, before: Readings, after: Readings, rank: int, when: str, anomaly: str = "base-changed"
) -> None:
    """Raises a `Violation` where something that had to stay as it was did not."""
    for name, parts in before.items():
        for part, right in parts.items():
            seen = after.get(name, {}).get(part)
            if not same(right, seen):
                place = Place(rank=rank, module=name, setting=when)
                raise Violation(anomaly, _other_than(part, right, seen), case, place)


def _other_than(part: str, right: Tensor, seen: Tensor | None) -> Difference:
    """The first number that is not what it was."""
    if seen is None or seen.shape != right.shape:
        shapes = tuple(seen.shape) if seen is not None else (), tuple(right.shape)
        return Difference(Aspect.SHAPE, *shapes, name=part)
    wrong = (seen != right) & ~(seen.isnan() & right.isnan())
    at = tuple(wrong.nonzero()[0].tolist())
    return Difference(Aspect.BITS, float(seen[at]), float(right[at]), element=at, name=part)


def require_same_writing(
    case: ModelCase, chain: Chain, name: str, base: Readings, plain: Readings, other: Readings
) -> None:
    """Raises a `Violation` where an adapter written in another way does not give what PEFT's own file gives."""
    found = next(iter(differences(base, plain, other, 0)), None)
    if found is None:
        return
    either = found if found.want.any() else replace(found, want=found.got, got=found.want)
    pair = tensor_of(either, chain.file.pairs)
    place = Place(module=found.module, setting=f"written {name}", role=pair.role if pair else "")
    fact = Remark(f"{found.part}: not what PEFT's own file gives")
    raise Violation(VANISHED if not (found.want.any() and found.got.any()) else "writing-matters", fact, case, place)


def require_feature(
    case: ModelCase, chain: Chain, base: Readings, seen: Readings | Refusal, plain: Readings | Refusal
) -> None:
    """Raises a `Violation` where an adapter's feature is neither refused by name nor changes what is computed.

    ``plain`` is what the same A, B and scaling come to without it.

    Raises:
        NotExercised: they are not served either.
    """
    feature = case.adapter.feature
    if isinstance(plain, Refusal) or not differ(base, plain):
        raise NotExercised("the class serves no such module, whatever else is asked for")
    how = f"with {feature}"
    if isinstance(seen, Refusal):
        if not (tells(seen.message, feature) or seen.named(chain)):
            raise unnamed(case, seen, chain.file.pairs, how)
    elif not differ(plain, seen):
        fact = Remark(f"the adapter is loaded, and computes what it does without {feature}")
        raise Violation("feature-ignored", fact, case, Place(setting=how, role=feature))


def rows_added(base: Readings, right: Readings) -> set[bytes]:
    """Every row of what the merged checkpoint computes beyond the base."""
    deltas = (
        _delta(base, name, part, tensor)
        for name, parts in right.items()
        for part, tensor in parts.items()
        if not torch.equal(tensor, base[name][part])
    )
    return {row for delta in deltas for row in rows_of(delta) if row}


def reaches(pairs: Sequence[FilePair], added: Collection[bytes]) -> bool:
    """Whether anything that the pairs add is among the rows that the merged checkpoint adds.

    A class that serves no such module drops its weights when it loads the base checkpoint, too.
    """
    return any(row in added for row, _ in sources_of(pairs))


def raised(refusal: Refusal) -> Raised:
    """A refusal as a fact, in one line that is not too long."""
    return Raised(refusal.kind, " ".join(refusal.message.split())[:400], refusal.site)


def unnamed(case: ModelCase, refusal: Refusal, pairs: Sequence[FilePair], how: str) -> Violation:
    """An adapter that was not loaded, without a word about which of its tensors is in the way."""
    roles = {pair.role for pair in pairs}
    place = Place(setting=how, role=roles.pop() if len(roles) == 1 else "")
    return Violation("raised", raised(refusal), case, place)
