"""Small configurations of models as data: sizes, and whatever else a model type leaves open."""

from __future__ import annotations

from dataclasses import dataclass

from strategies.codec import Spec


@dataclass(frozen=True, slots=True, repr=False)
class ConfigChoices(Spec):
    """What a small configuration is drawn from; the plainest is the default.

    ``layers`` counts the layers of every layer type that the model has. ``experts`` of them ``top_k`` are chosen.
    ``switches`` are booleans of the configuration that differ from the type's own default.
    """

    layers: int = 1
    heads: int = 4
    kv_heads: int = 4
    head_dim: int = 16
    hidden: int = 64
    intermediate: int = 128
    experts: int = 4
    top_k: int = 2
    expert_intermediate: int = 48
    vocabulary: int = 128
    switches: tuple[tuple[str, bool], ...] = ()
