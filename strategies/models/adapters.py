"""Adapters of whole models, as PEFT's `LoraConfig` is told of them; what can be targeted comes in as data."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis.strategies import DrawFn, composite

from strategies.choices import numbers, sampled, sequences
from strategies.codec import Spec

ALL_LINEAR = "all-linear"
RANKS = (1, 2, 4, 8, 3)
MAX_RANK = 8
_POWERS = (1, 2, 4, 8)  # of which every quotient is exact
_SCALINGS = (1.0, 2.0, 4.0, 0.5)
_SQUARES = (1, 4)  # ranks whose root is exact


@dataclass(frozen=True, slots=True, repr=False)
class ModelAdapter(Spec):
    """What a PEFT adapter is of.

    ``modules`` are ends of modules' names (``q_proj``, ``shared_experts.up_proj``), or `ALL_LINEAR`, ``parameters``
    those of parameters that are no module's weight, such as stacked experts. ``layers`` are the numbers of the layers
    that are adapted, all where it is empty. ``ranks`` and ``alphas`` are PEFT's patterns, ``saved`` its
    ``modules_to_save``. Scalings are powers of two, so that B·A is exact.
    """

    modules: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()
    layers: tuple[int, ...] = ()
    rank: int = 1
    alpha: float = 1.0
    rslora: bool = False
    ranks: tuple[tuple[str, int], ...] = ()
    alphas: tuple[tuple[str, float], ...] = ()
    saved: tuple[str, ...] = ()

    @property
    def all_linear(self) -> bool:
        """Whether PEFT chooses: every linear module but the head."""
        return self.modules == (ALL_LINEAR,)


@dataclass(frozen=True, slots=True)
class Targetable:
    """What PEFT can target in a model of one configuration, the plainest first.

    ``modules`` and ``parameters`` are ends of names, each as long as it must be to mean one place in a layer;
    ``saved`` are modules that an adapter may hold whole.
    """

    modules: tuple[str, ...]
    parameters: tuple[str, ...] = ()
    layers: int = 1
    saved: tuple[str, ...] = ()


@composite
def model_adapters(
    draw: DrawFn, offer: Targetable, *, targets: tuple[int, int] = (1, 4), all_linear: bool = True, saved: bool = True
) -> ModelAdapter:
    """Adapters of what is on offer; shrinks to one target of every layer, of rank 1 and scaling 1.

    Args:
        offer: what PEFT can target.
        targets: least and most targets, unless everything is.
        all_linear: whether ``all-linear`` is among the choices.
        saved: whether an adapter may hold a module whole.
    """
    kind = draw(sampled(("one", "one", "some", "some", "all") if all_linear else ("one", "some"), "kind"))
    everything = offer.modules + offer.parameters
    least, most = (1, 1) if kind == "one" else targets
    chosen = dict.fromkeys(draw(sequences(everything, min_size=least, max_size=most, what="targets")))
    modules = tuple(one for one in chosen if one in offer.modules)
    parameters = tuple(one for one in chosen if one in offer.parameters)
    if kind == "all":
        modules, parameters = (ALL_LINEAR,), parameters if draw(numbers(2, "and parameters")) else ()
    rslora = draw(numbers(4, "rslora")) == 3
    patterned = not rslora and kind == "some" and draw(numbers(3, "patterns")) == 2
    rank = draw(sampled(_SQUARES if rslora else _POWERS if patterned else RANKS, "rank"))
    scaling = draw(sampled(_SCALINGS, "scaling"))
    named = tuple(one for one in (*modules, *parameters) if one != ALL_LINEAR)
    some_layer = offer.layers > 1 and kind != "all" and not parameters and draw(numbers(3, "layers")) == 2
    return ModelAdapter(
        modules=modules,
        parameters=parameters,
        layers=(draw(numbers(offer.layers, "layer")),) if some_layer else (),
        rank=rank,
        alpha=scaling * (rank**0.5 if rslora else rank),
        rslora=rslora,
        ranks=tuple((one, draw(sampled(_POWERS, f"rank of {one}"))) for one in named[:1]) if patterned else (),
        alphas=tuple((one, draw(sampled((1.0, 4.0, 16.0), f"alpha of {one}"))) for one in named[-1:])
        if patterned
        else (),
        saved=offer.saved[:1] if saved and offer.saved and draw(numbers(16, "saved")) == 15 else (),
    )
