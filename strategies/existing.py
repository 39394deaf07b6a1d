"""Cases of one existing class: everything is drawn as ever, but for the class and what its constructor leaves open."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import TypeVar

from lora_compat.families import Family
from strategies.cases import LayerSpec, Quantization, Regime
from strategies.forwards import Forward
from strategies.options import Options
from strategies.parallel import TP_SIZES
from strategies.subclasses import SubclassSpec

T = TypeVar("T")


class NothingFits(Exception):
    """No case that the strategy could draw is one of the target's; the message says why."""


@dataclass(frozen=True, slots=True)
class Target:
    """An existing class, as far as drawing cases for it must know it.

    ``fit`` turns a drawn layer, and the TP size it is drawn for, into one that the class can be built as; ``fixed``
    has the layer options that the constructor does not leave open, with the values they have.
    """

    subclass: SubclassSpec
    family: Family
    fit: Callable[[LayerSpec, int], LayerSpec] = lambda layer, tp_size: layer
    fixed: Mapping[str, bool] = field(default_factory=dict)
    tp_sizes: tuple[int, ...] = TP_SIZES
    regimes: tuple[Regime, ...] = tuple(Regime)
    quantizations: tuple[Quantization, ...] = (Quantization.NONE,)

    @property
    def path(self) -> str:
        """The class's path."""
        return self.subclass.target or ""


_target: ContextVar[Target | None] = ContextVar("target", default=None)


def current_target() -> Target | None:
    """The class that `cases` are drawn for, None for drawn classes."""
    return _target.get()


@contextmanager
def targeting(target: Target | None) -> Iterator[None]:
    """Inside the block `cases` draws cases of ``target`` only."""
    token = _target.set(target)
    try:
        yield
    finally:
        _target.reset(token)


def narrowed(options: Options, target: Target) -> Options:
    """What ``target`` leaves of ``options``.

    Raises:
        NothingFits: nothing is left; the clause is about other classes.
    """
    if target.family not in options.families:
        raise NothingFits(f"the clause is about other families than {target.family.value}")
    if target.subclass.changes_forward and options.forwards == (Forward.INHERITED,):
        raise NothingFits("the class has a forward of its own")
    if not target.subclass.changes_forward and Forward.INHERITED not in options.forwards:
        raise NothingFits("the class keeps its family's forward")
    _agree("bias", options.biases, target)
    tp_sizes = tuple(size for size in options.tp_sizes if size in target.tp_sizes)
    disable_tp = target.fixed.get("disable_tp", options.disable_tp)
    if options.disable_tp is True and disable_tp is False:
        tp_sizes = tuple(size for size in tp_sizes if size == 1)
    elif options.disable_tp is False and disable_tp is True:
        raise NothingFits("the class always disables tensor parallelism")
    return replace(
        options,
        families=(target.family,),
        tp_sizes=_left(tp_sizes, f"the class is built at TP {target.tp_sizes} only"),
        regimes=_left(_both(options.regimes, target.regimes), "no error bound can be derived for the class's forward"),
        quantizations=_left(
            _both(options.quantizations, target.quantizations), "the class does not run quantized, by itself"
        ),
        disable_tp=disable_tp,
    )


def _agree(option: str, drawn: tuple[bool, ...], target: Target) -> None:
    if option in target.fixed and target.fixed[option] not in drawn:
        raise NothingFits(f"the class always has {option}={target.fixed[option]}")


def _both(drawn: tuple[T, ...], possible: tuple[T, ...]) -> tuple[T, ...]:
    return tuple(one for one in drawn if one in possible)


def _left(choices: tuple[T, ...], reason: str) -> tuple[T, ...]:
    if not choices:
        raise NothingFits(reason)
    return choices
