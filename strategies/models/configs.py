"""Small configurations of models as data: sizes, and whatever else a model type leaves open."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis.strategies import DrawFn, composite

from strategies.choices import numbers, sampled
from strategies.codec import Spec

_HEADS = (4, 8, 4, 12)
_HEAD_DIMS = (16, 32, 8, 24)
_HIDDEN = (64, 96, 128, 80, 48)
_VOCABULARIES = (128, 100, 130, 192)
_LAYERS = (1, 1, 1, 2, 3)

Option = bool | int | str | None
Switch = tuple[str, Option]


@dataclass(frozen=True, slots=True, repr=False)
class ConfigChoices(Spec):
    """What a small configuration is drawn from; the plainest is the default.

    ``layers`` counts the layers of every layer type that the model has. Of ``experts`` each token gets ``top_k``, out
    of one of their ``groups``.
    ``switches`` are options of the configuration, by dotted name, that differ from the type's own default.
    """

    layers: int = 1
    heads: int = 4
    kv_heads: int = 4
    head_dim: int = 16
    hidden: int = 64
    intermediate: int = 128
    experts: int = 4
    groups: int = 1
    top_k: int = 2
    expert_intermediate: int = 48
    vocabulary: int = 128
    switches: tuple[Switch, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelTraits:
    """What a model type leaves open.

    ``grouped`` says that fewer KV heads than heads are possible, ``free_heads`` that heads times head size need not be
    the hidden size, ``experts`` that it has any, ``groups`` that these can be in groups, ``even`` that the hidden size
    is cut into heads of another kind also.
    ``switches`` are the options that decide what modules there are, each with a value that is not the type's own.
    """

    grouped: bool = True
    free_heads: bool = True
    experts: bool = False
    groups: bool = False
    even: bool = False
    switches: tuple[Switch, ...] = ()


@composite
def config_choices(
    draw: DrawFn,
    traits: ModelTraits = ModelTraits(),
    *,
    switches: int = 2,
    layers: tuple[int, ...] = _LAYERS,
) -> ConfigChoices:
    """Choices for a type; shrinks to one layer of each type and the plainest sizes, nothing switched.

    Sizes differ where they may, and agree now and then where that hides what was mixed up.

    Args:
        traits: what the type leaves open.
        switches: how many options are changed at most.
        layers: the numbers of layers of each layer type that are drawn from.
    """
    heads, head_dim = draw(sampled(_HEADS, "heads")), draw(sampled(_HEAD_DIMS, "head dim"))
    sizes = tuple(size for size in _HIDDEN if size % heads == 0 and not (traits.even and size % 32))
    sizes = (sizes[0], heads * head_dim, *sizes[1:]) if traits.free_heads else (heads * head_dim,)
    hidden = draw(sampled(sizes, "hidden"))
    kv_heads = tuple(count for count in (4, 2, 1, heads) if heads % count == 0)
    experts, expert_intermediate = 4, 48
    if traits.experts:
        experts = draw(sampled((4, 8, 4, 6), "experts"))
        expert_intermediate = draw(sampled((48, 32, 64, hidden, hidden // 2), "expert intermediate"))
    return ConfigChoices(
        layers=draw(sampled(layers, "layers")),
        heads=heads,
        kv_heads=draw(sampled(kv_heads, "kv heads")) if traits.grouped else heads,
        head_dim=head_dim,
        hidden=hidden,
        intermediate=draw(sampled((128, 112, 2 * hidden, hidden, heads * head_dim), "intermediate")),
        experts=experts,
        groups=draw(sampled((1, 1, 2), "groups")) if traits.groups else 1,
        top_k=draw(sampled((2, 1), "top k")) if traits.experts else 2,
        expert_intermediate=expert_intermediate,
        vocabulary=draw(sampled(_VOCABULARIES, "vocabulary")),
        switches=_turned(draw, traits, switches),
    )


def _turned(draw: DrawFn, traits: ModelTraits, most: int) -> tuple[Switch, ...]:
    turned: dict[str, Option] = {}
    for place in range(most if traits.switches else 0):
        if draw(numbers(3, f"switch {place}")) == 2:
            turned.update([draw(sampled(traits.switches, f"which switch {place}"))])
    return tuple(sorted(turned.items()))
