"""`ModelCase`: a checkpoint, an adapter directory and a deployment, as frozen data; and the strategy that draws one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from hypothesis.strategies import DrawFn, SearchStrategy, composite, just

from strategies.cases import Dtype
from strategies.choices import numbers, sampled
from strategies.codec import Spec
from strategies.existing import NothingFits
from strategies.models.adapters import ModelAdapter, Targetable, model_adapters

TP_SIZES = (1, 1, 2, 2, 4)


@dataclass(frozen=True, slots=True, repr=False)
class ModelCase(Spec):
    """One model with one adapter.

    ``target`` is what is certified, by the name it was given; ``config`` the small configuration as JSON, sorted by
    key, whatever is left out being the type's default. Every tensor is a pure function of ``seed`` and its name.
    """

    target: str = "llama"
    config: str = "{}"
    adapter: ModelAdapter = ModelAdapter()  # noqa: RUF009 - frozen
    tp_size: int = 1
    fully_sharded: bool = False
    dtype: Dtype = Dtype.FLOAT32
    seed: int = 0

    @property
    def choices(self) -> dict[str, Any]:
        """The configuration's choices."""
        return dict(json.loads(self.config))


def written(choices: Mapping[str, Any]) -> str:
    """Choices of a configuration as `ModelCase.config` has them."""
    return json.dumps(choices, sort_keys=True)


@dataclass(frozen=True, slots=True)
class ModelTarget:
    """A model type, as far as drawing cases for it must know it.

    ``configs`` draws the choices of a small configuration, ``offer`` says what PEFT can target in one; both are
    functions of the type alone.
    """

    path: str
    configs: SearchStrategy[str]
    offer: Callable[[str], Targetable]
    tp_sizes: tuple[int, ...] = TP_SIZES
    dtypes: tuple[Dtype, ...] = (Dtype.FLOAT32, Dtype.FLOAT32, Dtype.FLOAT32, Dtype.BFLOAT16)


_target: ContextVar[ModelTarget | None] = ContextVar("model target", default=None)


@contextmanager
def targeting_model(target: ModelTarget | None) -> Iterator[None]:
    """Inside the block `model_cases` draws cases of ``target``."""
    token = _target.set(target)
    try:
        yield
    finally:
        _target.reset(token)


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
    target = _target.get()
    if target is None:
        raise NothingFits("the clause is about whole models: name one with --certify-model")
    config = draw(target.configs)
    offer = target.offer(config)
    if not offer.modules + offer.parameters:
        raise NothingFits("PEFT can target nothing in this model")
    served = tuple(size for size in tp_sizes or target.tp_sizes if size in target.tp_sizes)
    if not served:
        raise NothingFits("the model runs on one rank only")
    tp_size = draw(sampled(served, "tp size"))
    return ModelCase(
        target=target.path,
        config=config,
        adapter=draw(model_adapters(offer, targets=targets, all_linear=all_linear, saved=saved)),
        tp_size=tp_size,
        fully_sharded=tp_size > 1 and draw(sampled((False, True), "fully sharded")),
        dtype=draw(sampled(target.dtypes, "dtype")),
        seed=draw(numbers(2**16, "seed")),
    )


def one_config(choices: Mapping[str, Any]) -> SearchStrategy[str]:
    """The one configuration of a type that leaves no choice."""
    return just(written(choices))
