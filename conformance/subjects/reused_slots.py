"""Slots that are loaded over and emptied, of layers that a server drives: embeddings, LM heads and experts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from torch import Tensor


class SlotServer(Protocol):
    """What loads and empties slots."""

    def load(self, slot: int, adapter: Any) -> None:
        """Loads an unsharded adapter into a slot."""

    def reset(self, slot: int) -> None:
        """Empties a slot."""


def served(
    server: SlotServer, run: Callable[[], Tensor], slots: Sequence[int], adapters: Sequence[Any], former: Any
) -> tuple[Tensor, Tensor | None]:
    """What ``run`` gives with the adapters in their slots, on the CPU, and after these were reset.

    Each slot held and served ``former`` before; where that is None they held nothing, and are not reset.
    """
    if former is not None:
        for slot in slots:
            server.load(slot, former)
        run()  # something may be kept of what was served
    for slot, adapter in zip(slots, adapters, strict=True):
        server.load(slot, adapter)
    output = run().to("cpu", copy=True)
    if former is None:
        return output, None
    for slot in slots:
        server.reset(slot)
    return output, run().cpu()
