"""How a model is served beyond ranks and options: room for adapters, and what they are held in."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from strategies.codec import Spec


@dataclass(frozen=True, slots=True, repr=False)
class Deployment(Spec):
    """Room for adapters; the plainest is two of them, of about the rank that the file has.

    ``slots`` adapters are active at once, and ``spare`` more are kept. The largest rank is ``room`` times what the
    file needs. ``narrow`` says that adapters are held in bfloat16, whatever the model's dtype. ``modules`` are ends of
    names that LoRA is restricted to; everything is served where there are none. With ``copies`` several ranks have
    each expert twice, where they have experts whole, and towers whole, each for some of the images.
    """

    slots: int = 2
    spare: int = 0
    room: int = 1
    narrow: bool = False
    modules: tuple[str, ...] = ()
    copies: bool = False


PLAIN = Deployment()
COPIED = Deployment(copies=True)
WIDE = Deployment(slots=4, spare=2, room=8, narrow=True)
_OTHERS = (WIDE, Deployment(slots=1), Deployment(slots=1, spare=3), Deployment(room=8), Deployment(narrow=True))
DEPLOYMENTS = (PLAIN,) * 15 + _OTHERS  # each other one has to be started for itself


def given(options: Iterable[str]) -> dict[str, Any]:
    """Options by name: switched on, or, of the form ``name=value``, with that value, which may be a JSON object."""
    parts = (one.partition("=") for one in options)
    return {name: _value(value) if equals else True for name, equals, value in parts}


def _value(said: str) -> Any:
    return json.loads(said) if said.startswith("{") else said
