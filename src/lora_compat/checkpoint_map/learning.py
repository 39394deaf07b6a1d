"""The loader is asked: it is handed checkpoints of numbers, and its parameters are looked at afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from torch import Tensor

from lora_compat.checkpoint_map.alphabets import Kind, kind_of, raw_dtype
from lora_compat.checkpoint_map.numbering import Axis, Disorder, Handed, Numbering, Section
from lora_compat.checkpoint_map.proving import Proof, proved
from lora_compat.checkpoint_map.reading import Reading
from lora_compat.checkpoint_map.shapes import TensorInfo
from lora_compat.errors import LoRAError

Weights = Iterable[tuple[str, Tensor]]
Load = Callable[[Weights], object]
Parameters = Callable[[], Mapping[str, Tensor]]
_SMALL = 2**16  # elements: as quick to look at whole


class LoaderStopped(LoRAError):
    """The model's loader raised; nothing is known of the tensors that it had not been handed."""

    def __init__(self, name: str | None, error: Exception) -> None:
        where = "before it was handed any tensor" if name is None else f"at {name!r}"
        super().__init__(f"the model's loader stopped {where}: {type(error).__name__}: {error}")
        self.name = name


def learned(shapes: Mapping[str, TensorInfo], load: Load, parameters: Parameters) -> dict[str, Proof]:
    """What the parameters hold of a checkpoint with ``shapes`` after ``load``; they are left with numbers in them.

    One load for each digit of the rows and of the columns, and one for the proof: four for a model of a few thousand
    million elements in bfloat16. What a quick look does not explain takes as many again.

    Raises:
        LoaderStopped: the loader raised.
    """
    asked = _Asked(shapes, load, parameters)
    watched = asked.watched()
    found = asked.round({name: one.numel() <= _SMALL for name, one in watched.items()})
    again = {name for name in asked.unclear if watched[name].numel() > _SMALL}
    if again:
        asked.contiguous = True
        found |= asked.round(dict.fromkeys(again, True))
    return found


class _Asked:
    """One loader, and how it wants its tensors."""

    def __init__(self, shapes: Mapping[str, TensorInfo], load: Load, parameters: Parameters) -> None:
        self._load, self._parameters = load, parameters
        self._numbering = Numbering(shapes, {one.dtype for one in self.watched().values()})
        self._disorder = Disorder(self._numbering)
        self.contiguous = False
        self.unclear: set[str] = set()

    def watched(self) -> dict[str, Tensor]:
        """The parameters that can hold numbers; a loader may replace them, so they are asked for each time."""
        return {name: one for name, one in self._parameters().items() if kind_of(one.dtype) and one.numel()}

    @torch.no_grad()
    def round(self, careful: Mapping[str, bool]) -> dict[str, Proof]:
        """Digits, and the proof, for some parameters; ``careful`` says how they are looked at."""
        watched = self.watched()
        readings = {
            name: Reading(self._section(watched[name]), tuple(watched[name].shape), carefully)
            for name, carefully in careful.items()
        }
        self._poison(name for name, carefully in careful.items() if carefully)
        for axis in Axis:
            for place in range(self._numbering.places(axis)):
                self._digit(axis, place)
                now = self.watched()
                for name, one in readings.items():
                    one.see(axis, now[name], place)
            if axis is Axis.ROWS:
                for one in readings.values():
                    one.rows_seen()
        return self._proofs(readings)

    def _proofs(self, readings: Mapping[str, Reading]) -> dict[str, Proof]:
        proposed = {name: list(one.proposed()) for name, one in readings.items()}
        now = self.watched()
        self._poison(
            name for name, pieces in proposed.items() if sum(one.elements for one in pieces) < now[name].numel()
        )
        self._hand(self._disorder.weights())
        now, found = self.watched(), {}
        for name, one in readings.items():
            found[name] = proved(now[name], proposed[name], self._disorder, one.section, one.elements())
            if found[name].failed or one.tangled:
                self.unclear.add(name)
        return found

    def _digit(self, axis: Axis, place: int) -> None:
        """One pass, on tensors that take no memory if the loader can do with them."""
        if not self.contiguous:
            try:
                self._hand(self._numbering.digits(axis, place, contiguous=False))
            except LoaderStopped:
                self.contiguous = True
        if self.contiguous:
            self._hand(self._numbering.digits(axis, place, contiguous=True))

    def _hand(self, weights: Handed) -> None:
        handed: list[str] = []

        def noted() -> Iterator[tuple[str, Tensor]]:
            for name, tensor in weights:
                handed[:] = [name]
                yield name, tensor

        try:
            self._load(noted())
        except Exception as error:
            raise LoaderStopped(handed[0] if handed else None, error) from error

    def _poison(self, names: Iterable[str]) -> None:
        now = self.watched()
        for name in names:
            one = now[name].data
            one.view(raw_dtype(one.dtype)).fill_(self._section(one).letters.poison)

    def _section(self, parameter: Tensor) -> Section:
        return self._numbering.sections[kind_of(parameter.dtype) or Kind.FLOATS]
