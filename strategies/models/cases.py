"""`ModelCase`: a checkpoint, an adapter directory and a deployment, as frozen data; and what draws one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace

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
    SAVED_HEADS,
    ModelAdapter,
    Targetable,
    model_adapters,
)
from strategies.models.configs import ConfigChoices, Switch
from strategies.models.deployments import COPIED, DEPLOYMENTS, PLAIN, WIDE, Deployment

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
    that a deployment may switch on, ``switches`` the options of its configuration that decide what modules there are;
    ``groups`` says that its experts can be in groups.
    """

    path: str
    configs: SearchStrategy[ConfigChoices]
    offer: Callable[[ConfigChoices], Targetable | None]
    tp_sizes: tuple[int, ...] = TP_SIZES
    dtypes: tuple[Dtype, ...] = (Dtype.FLOAT32, Dtype.FLOAT32, Dtype.FLOAT32, Dtype.BFLOAT16)
    options: tuple[str, ...] = ()
    switches: tuple[Switch, ...] = ()
    groups: bool = False

    @property
    def deployments(self) -> tuple[tuple[str, ...], ...]:
        """Nothing switched on, and each option by itself."""
        return ((), *((one,) for one in self.options))

    def whole(self) -> list[ModelCase]:
        """The plainest configuration with everything adapted, then those with one option changed.

        In the last of these, or else in the first of all, there is room for more. And experts whose number 4 ranks do
        not divide, with copies, or in groups.
        """
        plainest = self._plainest()
        changed = [
            ModelCase(self.path, config, ModelAdapter(modules), dtype=self.dtypes[0])
            for config, offer in self._changed()
            if (modules := offer.untied)
        ]
        return [
            *plainest,
            *changed[:-1],
            *(replace(one, deployment=WIDE) for one in changed[-1:] or plainest[:1]),
            *self._experts(ConfigChoices(experts=6)),
            *(replace(one, deployment=COPIED) for one in self._experts(ConfigChoices())),
            *(self._experts(ConfigChoices(groups=2)) if self.groups else ()),
        ]

    def _changed(self) -> Iterator[tuple[ConfigChoices, Targetable]]:
        """One option changed, of one layer of each type, or of two where the option asks for more than one."""
        for one in self.switches:
            for layers in (1, 2):
                config = ConfigChoices(layers=layers, switches=(one,))
                offer = self.offer(config)
                if offer is not None:
                    yield config, offer
                    break

    def _experts(self, config: ConfigChoices) -> Iterator[ModelCase]:
        offer = self.offer(config)
        if offer is None:
            return
        modules, parameters = (
            tuple(one for one in ends if one.startswith("experts.") and one not in offer.around)
            for ends in (offer.modules, offer.parameters)
        )
        if modules or parameters:  # of a rank that ranks divide, and one with an alpha of its own
            first = (*parameters, *modules)[0]
            adapter = ModelAdapter(modules, parameters, rank=4, alpha=4.0, alphas=((first, 16.0),))
            yield ModelCase(self.path, config, adapter, dtype=self.dtypes[0])

    def _plainest(self) -> list[ModelCase]:
        """The plainest configuration with everything adapted, without and with what is no module's weight.

        The language model by itself follows, each of the latter, as of stacked experts one parameter is not found
        alone in a larger file, and a head that classifies, which the adapter holds whole. Layers are dealt out to
        stages where there are enough of them, and towers are whole on each rank where an option is on.
        """
        offer = self.offer(ConfigChoices())
        if offer is None:
            return []
        modules = offer.untied
        plain = tuple(one for one in modules if not offer.clash(one))
        parameters = tuple(one for one in offer.parameters if one not in offer.around)
        single = (ModelAdapter(parameters=(one,)) for one in offer.parameters)
        alone = [ModelAdapter(offer.alone)] if offer.alone else []
        heads = [ModelAdapter(plain[:1], saved=(one,)) for one in offer.saved if one in SAVED_HEADS]
        adapters = dict.fromkeys((ModelAdapter(modules), ModelAdapter(plain, parameters), *alone, *single, *heads))
        stages = STAGES if offer.layers >= STAGES else 1
        return [
            ModelCase(
                self.path,
                adapter=one,
                dtype=self.dtypes[0],
                options=options,
                deployment=COPIED if options else PLAIN,
                stages=stages,
            )
            for options in self.deployments
            for one in adapters
            if offer.modules
        ]


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
    options, deployment = draw(sampled(target.deployments, "options")), draw(sampled(DEPLOYMENTS, "deployment"))
    tp_size, fully_sharded = served[draw(numbers(_PLACES, "tp size")) % len(served)], draw(numbers(2, "fully sharded"))
    stages = draw(sampled((1, STAGES), "stages")) if offer.layers >= STAGES else 1
    sharded = tp_size > 1 and fully_sharded == 1
    return ModelCase(target.path, config, adapter, tp_size, sharded, dtype, seed, options, deployment, stages)
