"""`ModelCase`: a checkpoint, an adapter directory and a deployment, as frozen data; and what draws one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from hypothesis import reject
from hypothesis.strategies import DrawFn, SearchStrategy, composite

from strategies.cases import Dtype
from strategies.choices import numbers, sampled
from strategies.codec import Spec
from strategies.existing import NothingFits
from strategies.models.adapters import (
    EMBEDDING,
    FEATURES,
    FURTHER_LAYER,
    SAVED_EMBEDDING,
    ModelAdapter,
    Targetable,
    model_adapters,
)
from strategies.models.configs import ConfigChoices, Switch
from strategies.models.deployments import DEPLOYMENTS, Deployment

TP_SIZES = (1, 1, 2, 2, 4)
STAGES = 2  # of a pipeline, where there are layers for them
_PLACES = 60  # a multiple of any number of sizes to draw from


@dataclass(frozen=True, slots=True, repr=False)
class ModelCase(Spec):
    """One model with one adapter.

    ``target`` is what is certified, by the name it was given; ``config`` says how small its configuration is, and how
    it differs from the type's own. ``options`` are those of the deployment that are given. Every tensor is a
    pure function of ``seed`` and its name. Layers can be dealt out to ``stages`` of a pipeline; the ranks are one
    ``stage`` of them, or have all layers where that is None.
    """

    target: str = "llama"
    config: ConfigChoices = ConfigChoices()  # noqa: RUF009 - frozen
    adapter: ModelAdapter = ModelAdapter()  # noqa: RUF009 - frozen
    tp_size: int = 1
    fully_sharded: bool = False
    dtype: Dtype = Dtype.FLOAT32
    seed: int = 0
    options: tuple[str, ...] = ()
    deployment: Deployment = Deployment()  # noqa: RUF009 - frozen
    stages: int = 1
    stage: int | None = None


@dataclass(frozen=True, slots=True)
class ModelDraws:
    """A model type, as far as drawing cases for it must know it.

    ``configs`` draws its small configurations, ``offer`` says what PEFT can target in one, None where transformers
    does not take it; both are functions of the type alone. ``options`` are what the class that serves it declares
    that a deployment may switch on, ``ways`` those with which other code serves the model, or only a part of it is
    served; ``switches`` are the options of its configuration that decide what modules there are. ``groups`` says that
    its experts can be in groups.
    """

    path: str
    configs: SearchStrategy[ConfigChoices]
    offer: Callable[[ConfigChoices], Targetable | None]
    tp_sizes: tuple[int, ...] = TP_SIZES
    dtypes: tuple[Dtype, ...] = (Dtype.FLOAT32, Dtype.FLOAT32, Dtype.FLOAT32, Dtype.BFLOAT16)
    options: tuple[str, ...] = ()
    ways: tuple[tuple[str, ...], ...] = ()
    switches: tuple[Switch, ...] = ()
    groups: bool = False

    @property
    def deployments(self) -> tuple[tuple[str, ...], ...]:
        """Nothing switched on, and each option by itself."""
        return ((), *((one,) for one in self.options))

    @property
    def drawn(self) -> tuple[tuple[str, ...], ...]:
        """The options that are drawn from, `ways` more seldom."""
        return *self.deployments * 2, *self.ways


_target: ContextVar[ModelDraws | None] = ContextVar("model target", default=None)


@contextmanager
def targeting_model(target: ModelDraws | None) -> Iterator[None]:
    """Inside the block `model_cases` draws cases of ``target``."""
    token = _target.set(target)
    try:
        yield
    finally:
        _target.reset(token)


def _targeted() -> ModelDraws:
    target = _target.get()
    if target is None:
        raise NothingFits("the clause is about whole models: name one with --certify-model")
    return target


@composite
def featured_cases(draw: DrawFn) -> ModelCase:
    """The target's plainest model and an adapter of one of its first modules with one of PEFT's `FEATURES`: a dozen.

    Further ones are of a layer that the model has not, and of an embedding that is not tied, whose own weight PEFT
    saves.

    Raises:
        NothingFits: no model is being certified, or PEFT can target nothing in it.
    """
    target = _targeted()
    offer = target.offer(ConfigChoices())
    modules = offer.of_language if offer else ()
    if offer is None or not modules:
        raise NothingFits("PEFT can target nothing in this model")
    saved = (SAVED_EMBEDDING,) if EMBEDDING in offer.modules and EMBEDDING not in offer.tied else ()
    feature, module = (
        draw(sampled((*FEATURES, FURTHER_LAYER, *saved), "feature")),
        draw(sampled(modules[:2], "module")),
    )
    adapter = ModelAdapter((module,) + (EMBEDDING,) * (feature == SAVED_EMBEDDING), feature=feature)
    return ModelCase(target=target.path, adapter=adapter, dtype=target.dtypes[0])


@composite
def restricted_cases(draw: DrawFn) -> ModelCase:
    """The target's plainest model where LoRA is restricted to one module, and an adapter of it, beside another or not.

    Raises:
        NothingFits: no model is being certified, or PEFT can target fewer than two modules in it.
    """
    target = _targeted()
    offer = target.offer(ConfigChoices())
    modules = offer.of_language if offer else ()
    if len(modules) < 2:
        raise NothingFits("PEFT can target no two modules in this model")
    served = draw(sampled(modules, "served"))
    others = tuple((one,) for one in modules if one != served)
    beside = draw(sampled(((), *others, *others), "beside"))
    adapter, restricted = ModelAdapter((served, *beside)), Deployment(modules=(served.rpartition(".")[2],))
    return ModelCase(target.path, adapter=adapter, dtype=target.dtypes[0], deployment=restricted)


@composite
def model_cases(
    draw: DrawFn,
    *,
    tp_sizes: tuple[int, ...] | None = None,
    targets: tuple[int, int] = (1, 4),
    all_linear: bool = True,
    saved: bool = True,
) -> ModelCase:
    """Cases of the current target; shrinks to its plainest configuration, one target, rank 1, one rank.

    Args:
        tp_sizes: the tensor-parallel sizes drawn from, unless the target's own.
        targets: least and most targets of the adapter, unless it takes everything.
        all_linear: whether the adapter may take everything.
        saved: whether the adapter may hold a module whole.

    Raises:
        NothingFits: no model is being certified.
    """
    target = _targeted()
    config = draw(target.configs)
    offer = target.offer(config)
    if offer is None:
        if target.offer(ConfigChoices()) is None:
            raise NothingFits("transformers makes no small model of this type")
        reject()
    if not offer.modules + offer.parameters:
        raise NothingFits("PEFT can target nothing in this model")
    served = tuple(size for size in tp_sizes or target.tp_sizes if size in target.tp_sizes)
    if not served:
        raise NothingFits("the model runs on one rank only")
    adapter = draw(model_adapters(offer, targets=targets, all_linear=all_linear, saved=saved))
    dtype, seed = draw(sampled(target.dtypes, "dtype")), draw(numbers(2**16, "seed"))
    options, deployment = draw(sampled(target.drawn, "options")), draw(sampled(DEPLOYMENTS, "deployment"))
    tp_size, fully_sharded = served[draw(numbers(_PLACES, "tp size")) % len(served)], draw(numbers(2, "fully sharded"))
    stages = draw(sampled((1, STAGES), "stages")) if offer.layers >= STAGES else 1
    sharded = tp_size > 1 and fully_sharded == 1
    return ModelCase(target.path, config, adapter, tp_size, sharded, dtype, seed, options, deployment, stages)
