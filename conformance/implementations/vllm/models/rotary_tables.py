"""vLLM's rotary tables, which all models of a process share: who writes into one changes what the others compute."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from conformance.implementations.vllm.models.readings import own_tensors

_ROTARY, _TABLES = "vllm.model_executor.layers.rotary_embedding", "_ROPE_DICT"
SHARED = f"{_ROTARY}.{_TABLES}"


class TableOverwritten(Exception):
    """Somebody wrote into a shared table; what models read before and after it does not compare."""


class RotaryTables:
    """Knows what is in each shared table, from when it was first seen on."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, str], Tensor] = {}  # by module, which lives as long as the process, and name

    @contextmanager
    def unchanged(self, step: str) -> Iterator[None]:
        """Around a step, which is named where a table is not what it was.

        Raises:
            TableOverwritten: it was written into during the step, or since the last one.
        """
        self._require_unchanged(f"before {step}, since the last reading")
        yield
        self._require_unchanged(step)

    def _require_unchanged(self, step: str) -> None:
        changed = [said for module in _shared() for said in self._changed(module)]
        if changed:
            raise TableOverwritten(f"{step}: a rotary table that all models share is another: {'; '.join(changed)}")

    def _changed(self, module: nn.Module) -> Iterator[str]:
        """What differs, if anything does, which is put back; what was not seen before is noted."""
        for name, tensor in own_tensors(module):
            now = tensor.cpu()
            was = self._known.get((id(module), name))
            if was is not None and was.dtype == now.dtype and torch.equal(was, now):
                continue
            if was is None or was.shape != now.shape or was.isnan().all():  # of none, it is made on the first query
                self._known[id(module), name] = now.clone()
            elif not _same(was.to(now.dtype), now):  # vLLM keeps it in the dtype of the last query
                yield _told(f"{type(module).__name__}.{name}", was.to(now.dtype), now)
                tensor.copy_(was)


def _same(was: Tensor, now: Tensor) -> bool:
    """Whether they have the same numbers; what is none is the same."""
    return bool(((was == now) | (was.isnan() & now.isnan())).all())


def _told(name: str, was: Tensor, now: Tensor) -> str:
    places = (was != now).nonzero()
    first = tuple(places[0].tolist())
    place = ", ".join(map(str, first))
    return f"{name}[{place}] is {now[first].item():g} and was {was[first].item():g}, as {len(places)} numbers differ"


def _shared() -> list[nn.Module]:
    """None where vLLM is not imported yet: who imports it before its platform is chosen has chosen another one."""
    return list(getattr(sys.modules.get(_ROTARY), _TABLES, {}).values())


tables = RotaryTables()
