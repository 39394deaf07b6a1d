"""Whether a model serves an adapter: every part of every module on every rank is that of the merged checkpoint."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from conformance.implementations.models import EXPERTS
from conformance.judging.anomalies.models import VANISHED, Difference, explain, rows_of, sources_of, tensor_of
from conformance.judging.measuring import note
from conformance.judging.verdicts import Violation
from conformance.subjects.models.adapters import FilePair
from conformance.subjects.models.chains import Chain
from conformance.subjects.models.observing import Readings, Refusal
from strategies.models.cases import ModelCase


def differences(base: Readings, want: Readings, got: Readings, rank: int) -> list[Difference]:
    """The parts of one rank that are not what they have to be."""
    return [
        Difference(name, part, rank, _delta(base, name, part, right), _delta(base, name, part, got[name].get(part)))
        for name, parts in want.items()
        for part, right in parts.items()
        if not same(right, got[name].get(part))
    ]


def same(right: Tensor, seen: Tensor | None) -> bool:
    """Whether two tensors are equal bit for bit, what is no number in either aside; noted as an exact comparison."""
    if seen is None or seen.shape != right.shape:
        return False
    error = (seen.double() - right.double()).abs().nan_to_num(0.0)
    note(error, torch.zeros_like(error), None)
    return torch.equal(seen, right) or torch.equal(seen.nan_to_num(1.0), right.nan_to_num(1.0))


def _delta(base: Readings, name: str, part: str, seen: Tensor | None) -> Tensor:
    bare = base[name][part].float()
    return seen.float() - bare if seen is not None and seen.shape == bare.shape else torch.zeros_like(bare)


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
    anomaly, first = next((pair for pair in named if pair[0] != VANISHED), named[0])  # that one is MODEL-1's
    raise Violation(anomaly, how + told(first, chain) + _others(named), case)


def told(wrong: Difference, chain: Chain) -> str:
    """The first wrong number, and the tensor of the file that it is of."""
    place = wrong.place
    if not place:
        return f"{wrong.module} on rank {wrong.rank}, {wrong.part}: not of the shape that the merged model's has"
    where = f"{wrong.module} on rank {wrong.rank}, {wrong.part}{list(place)}"
    pair = tensor_of(wrong, chain.file.pairs)
    of = f"; {pair.key_b} of the file" if pair else ""
    return f"{where}: the adapter adds {float(wrong.got[place]):g}, but should be {float(wrong.want[place]):g}{of}"


def _others(named: Sequence[tuple[str, Difference]]) -> str:
    modules = dict.fromkeys(one.module for _, one in named)
    return f" (and {len(modules) - 1} more modules)" if len(modules) > 1 else ""


def require_same(case: ModelCase, before: Readings, after: Readings, rank: int, when: str) -> None:
    """Raises a `Violation` where something that had to stay as it was did not."""
    for name, parts in before.items():
        for part, right in parts.items():
            seen = after.get(name, {}).get(part)
            if not same(right, seen):
                raise Violation("base-changed", f"{name} on rank {rank}, {part}: not what it was, {when}", case)


def without_experts(readings: Readings) -> Readings:
    """Without the experts' weights, which another kernel serves where LoRA is off, in a layout of its own."""
    return {
        name: {part: tensor for part, tensor in parts.items() if part not in EXPERTS}
        for name, parts in readings.items()
    }


def require_same_writing(case: ModelCase, name: str, base: Readings, plain: Readings, other: Readings) -> None:
    """Raises a `Violation` where an adapter written in another way does not give what PEFT's own file gives."""
    for module, parts in plain.items():
        for part, tensor in parts.items():
            seen = other[module][part]
            if not same(tensor, seen):
                lost = tensor.equal(base[module][part]) or seen.equal(base[module][part])
                message = f"{module}, {part}: written {name} it is not what PEFT's own file gives"
                raise Violation(VANISHED if lost else "writing-matters", message, case)


def reaches(pairs: Sequence[FilePair], base: Readings, right: Readings) -> bool:
    """Whether anything that the pairs add is in what the merged checkpoint computes.

    A class that serves no such module drops its weights when it loads the base checkpoint, too.
    """
    added = {row for row, _ in sources_of(pairs)}
    deltas = (_delta(base, name, part, tensor) for name, parts in right.items() for part, tensor in parts.items())
    rows = (row for delta in deltas if delta.any() for row in rows_of(delta))
    return any(row in added for row in rows if row)


def unnamed(case: ModelCase, refusal: Refusal) -> Violation:
    """An adapter that was not loaded, without a word about which of its tensors is in the way."""
    said = " ".join(str(refusal).split())[:400]
    return Violation("raised", f"loading the adapter raised {said or 'nothing that says why'}", case)
