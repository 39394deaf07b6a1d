"""Adapters of whole models, as PEFT's `LoraConfig` is told of them; what can be targeted comes in as data."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from hypothesis.strategies import DrawFn, composite

from strategies.choices import numbers, sampled, sequences
from strategies.codec import Spec

ALL_LINEAR = "all-linear"
RANKS = (1, 2, 4, 8, 3)
MAX_RANK = 8
# What PEFT adapters may be beyond A, B and a scaling, by the name in their configuration.
FEATURES = (
    *("init_lora_weights", "alora_invocation_tokens", "layer_replication"),
    *("use_dora", "lora_bias", "trainable_token_indices"),
)
SAVED_EMBEDDING = "save_embedding_layers"  # with a row that was given numbers before training, as new tokens' are
FURTHER_LAYER = "further_layer"  # that the model has not, as an adapter of a larger model of the type
EMBEDDING, HEAD = "embed_tokens", "lm_head"  # as PEFT knows ends whose weight it saves
_POWERS = (1, 2, 4, 8)  # of which every quotient is exact
_SCALINGS = (1.0, 2.0, 4.0, 0.5)
_SQUARES = (1, 4)  # ranks whose root is exact
SAVED_HEADS = ("score", "classifier")  # as transformers calls heads that classify, which PEFT saves whole
ANY_NUMBER = "#"  # in an end of a name, that of the layer
_NUMBER = re.compile(r"\.\d+(?=\.)")


@dataclass(frozen=True, slots=True, repr=False)
class ModelAdapter(Spec):
    """What a PEFT adapter is of.

    ``modules`` are ends of modules' names (``q_proj``, ``shared_experts.up_proj``, or, where a tower has modules of
    such a name, ``language_model.layers.#.self_attn.q_proj``), or `ALL_LINEAR`, ``parameters`` those of parameters
    that are no module's weight, such as stacked experts. ``layers`` are the numbers of the layers that are adapted,
    all where it is empty. ``ranks`` and ``alphas`` are PEFT's patterns, ``saved`` its ``modules_to_save``. ``feature``
    is one of `FEATURES` that it has besides, or one of the next two. Scalings are powers of two, so that B·A is exact.
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
    feature: str = ""

    @property
    def all_linear(self) -> bool:
        """Whether PEFT chooses: every linear module but the head."""
        return self.modules == (ALL_LINEAR,)

    @property
    def target_modules(self) -> str | list[str]:
        """As PEFT is told: ends of names, or a regular expression for all of them where any layer's number will do."""
        if self.all_linear:
            return ALL_LINEAR
        if not any(ANY_NUMBER in one for one in self.modules):
            return list(self.modules)
        if self.layers:
            numbered = (one.replace(ANY_NUMBER, str(layer)) for one in self.modules for layer in self.layers)
            return list(dict.fromkeys(numbered))
        return rf"(.*\.)?({'|'.join(map(_pattern, self.modules))})"

    @property
    def rank_pattern(self) -> dict[str, int]:
        """`ranks`, as PEFT is told."""
        return {_pattern(one): rank for one, rank in self.ranks}

    @property
    def alpha_pattern(self) -> dict[str, float]:
        """`alphas`, as PEFT is told."""
        return {_pattern(one): alpha for one, alpha in self.alphas}

    def without(self, names: tuple[str, ...]) -> ModelAdapter:
        """The same of those targets only that end none of ``names``."""

        def kept(targets: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(one for one in targets if not any(_ends(name, one) for name in names))

        return replace(self, modules=kept(self.modules), parameters=kept(self.parameters), saved=kept(self.saved))


def _pattern(end: str) -> str:
    return end.replace(".", r"\.").replace(ANY_NUMBER, r"\d+") if ANY_NUMBER in end else end


def _ends(name: str, end: str) -> bool:
    """Whether a module's name has that end."""
    told = _NUMBER.sub(f".{ANY_NUMBER}", name) if ANY_NUMBER in end else name
    return f".{told}".endswith(f".{end}")


@dataclass(frozen=True, slots=True)
class Targetable:
    """What PEFT can target in a model of one configuration, the plainest first.

    ``modules`` and ``parameters`` are ends of names, each as long as it must be to mean one place in a layer;
    ``around`` are parameters of modules that have others inside, of which PEFT merges either. ``saved`` are modules
    that an adapter may hold whole, ``tied`` embeddings that share their weight with a head. ``alone`` are ends of
    modules of the language model that name none of a tower; empty where there is no tower.
    """

    modules: tuple[str, ...]
    parameters: tuple[str, ...] = ()
    around: tuple[str, ...] = ()
    layers: int = 1
    saved: tuple[str, ...] = ()
    tied: tuple[str, ...] = ()
    alone: tuple[str, ...] = ()

    @property
    def untied(self) -> tuple[str, ...]:
        """The modules, but for embeddings that share their weight with a head."""
        return tuple(one for one in self.modules if one not in self.tied)

    @property
    def of_language(self) -> tuple[str, ...]:
        """`untied`, and of the language model alone where there is a tower."""
        return tuple(one for one in self.alone or self.modules if one not in self.tied)

    @property
    def has_experts(self) -> bool:
        """Whether any layer has routed experts, stacked or each by itself."""
        return any(one.startswith("experts.") for one in (*self.modules, *self.parameters))

    @property
    def fused_experts(self) -> bool:
        """Whether experts have gate and up projection in one parameter, which PEFT takes their names for."""
        return any(one.endswith("gate_up_proj") for one in self.parameters)

    def clash(self, target: str) -> bool:
        """Whether PEFT may take ``target`` for experts, or it is one of their parameters: both are too much."""
        names = ("gate_proj", "up_proj", "down_proj", "gate_up_proj", "w1", "w2", "w3")
        return target in self.around or (self.fused_experts and target.rpartition(".")[2] in names)


def _partners(chosen: Iterable[str], offer: Targetable) -> list[str]:
    """What PEFT wants adapted with what is chosen."""
    wanted = {"gate_proj": "up_proj", "up_proj": "gate_proj", "w1": "w3", "w3": "w1"} if offer.fused_experts else {}
    return [wanted[one] for one in chosen if wanted.get(one) in offer.modules]


@composite
def model_adapters(
    draw: DrawFn, offer: Targetable, *, targets: tuple[int, int] = (1, 4), all_linear: bool = True, saved: bool = True
) -> ModelAdapter:
    """Adapters of what is on offer; shrinks to one target of every layer, of rank 1 and scaling 1.

    Args:
        offer: what PEFT can target.
        targets: least and most targets, unless everything is.
        all_linear: whether ``all-linear``, or every target by its name, is among the choices.
        saved: whether an adapter may hold a module whole.
    """
    kind = draw(sampled(("one", "every", "some", "one", "all", "some") if all_linear else ("one", "some"), "kind"))
    everything = offer.modules + offer.parameters
    least, most = (1, 1) if kind == "one" else targets
    chosen = dict.fromkeys(draw(sequences(everything, min_size=least, max_size=most, what="targets")))
    if kind == "every":
        chosen = dict.fromkeys(everything if draw(numbers(2, "and parameters")) else offer.modules)
    chosen |= dict.fromkeys(_partners(chosen, offer))
    modules = tuple(one for one in chosen if one in offer.modules)
    parameters = tuple(one for one in chosen if one in offer.parameters and not (modules and offer.clash(one)))
    if kind == "all":
        beside = tuple(one for one in parameters if one not in offer.around)
        modules, parameters = (ALL_LINEAR,), beside if draw(numbers(2, "and parameters")) else ()
    rslora = draw(numbers(4, "rslora")) == 3 and not offer.fused_experts  # PEFT gives those a rank with no exact root
    patterned = not rslora and kind == "some" and draw(numbers(3, "patterns")) == 2
    rank = draw(sampled(_SQUARES if rslora else _POWERS if patterned else RANKS, "rank"))
    scaling = draw(sampled(_SCALINGS, "scaling"))
    named = tuple(one for one in (*modules, *parameters) if one != ALL_LINEAR)
    some_layer = offer.layers > 1 and draw(numbers(3, "layers")) == 2 and kind != "all" and not parameters
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
        saved=offer.saved[:1] if offer.saved and draw(numbers(16, "saved")) == 15 and saved else (),
    )
