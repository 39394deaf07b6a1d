"""The suite with one of its ideas switched off, with all (what a peer's tests amount to), and with one more."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from unittest.mock import patch

import torch
from hypothesis import Phase
from torch import Tensor

from conformance.judging import assertions
from conformance.judging.anomalies import traits
from conformance.oracles import linear as oracle
from conformance.search import drawing, searching
from conformance.values import linear as values
from strategies.cases import Case, Layout, Regime
from strategies.subclasses import SubclassSpec

# What vLLM's layer tests allow, absolute and relative.
CONSTANT = {"float32": 1e-4, "float16": 5e-3, "bfloat16": 3e-2}


@dataclass(frozen=True, slots=True)
class Ablation:
    """What becomes of every case, what is patched, and whether Hypothesis is told how near errors are to the bound."""

    name: str
    story: str
    change: Callable[[Case], Case] = lambda case: case
    patch: Callable[[], AbstractContextManager[object]] = nullcontext
    targeted: bool = False


def _plain_class(case: Case) -> Case:
    return replace(case, subclass=SubclassSpec())


def _real_numbers(case: Case) -> Case:
    return replace(case, regime=Regime.ROUNDED)


def _one_rank(case: Case) -> Case:
    return replace(case, tp_size=1, fully_sharded=False)


def _one_adapter(case: Case) -> Case:
    return replace(case, adapters=case.adapters[:1], tokens=(0,) * len(case.tokens)) if case.adapters else case


def _random_values_only(case: Case) -> Case:
    """A fixed plain layer, its rank full, one adapter, plain inputs."""
    case = _one_adapter(_one_rank(_real_numbers(_plain_class(case))))
    layer = replace(
        case.layer, bias=False, skip_bias_add=False, return_bias=True, gather_output=False, disable_tp=False,
        reduce_results=True,
    )  # fmt: skip
    fused = not case.packed and len(layer.output_sizes) > 1
    present = (True,) * max(1, len(case.packed))
    adapters = tuple(
        replace(one, rank=case.max_rank, alpha=float(case.max_rank), rslora=False, fused=fused, present=present)
        for one in case.adapters
    )
    return replace(case, layer=layer, adapters=adapters, layout=Layout.TWO_D)


@contextmanager
def _constant_tolerance() -> Iterator[None]:
    def error_bound(case: Case, magnitude: Tensor) -> Tensor:
        return CONSTANT[case.dtype.value] * (1 + magnitude)

    with (
        patch.object(oracle, "error_bound", error_bound),
        patch.object(assertions, "error_bound", error_bound),
        patch.object(traits, "error_bound", error_bound),
    ):
        yield


@contextmanager
def _uniform_values() -> Iterator[None]:
    """Values from [0, 1), and the constant tolerance."""

    def draw(self, *shape: int, fan_in: int = 1) -> Tensor:
        drawn = torch.rand(shape, generator=self._generator, dtype=torch.float64)
        return drawn.to(self._dtype).double()

    with _constant_tolerance(), patch.object(values._Source, "draw", draw):
        yield


@contextmanager
def _targeting() -> Iterator[None]:
    phases = (Phase.generate, Phase.target, Phase.shrink)
    with patch.object(searching, "PHASES", phases), patch.object(drawing, "BACKEND", "hypothesis"):
        yield


ABLATIONS = (
    Ablation("the suite", "every idea on"),
    Ablation("without subclasses", "the family's own class, as it is", _plain_class),
    Ablation("without exact integers", "normal deviates and the derived bound only", _real_numbers),
    Ablation(
        "without exact integers and derived bound", "normal deviates, constant tolerance", _real_numbers,
        _constant_tolerance,
    ),
    Ablation("without ranks", "one rank, no sharding", _one_rank),
    Ablation("without mixed batches", "one adapter, for every token", _one_adapter),
    Ablation(
        "random values only", "a plain layer, one rank, one adapter of full rank, values from [0, 1), constant "
        "tolerance, the same clauses", _random_values_only, _uniform_values,
    ),
    Ablation(
        "with hypothesis.target", "every idea on, and a search towards errors near their bound", patch=_targeting,
        targeted=True,
    ),
)  # fmt: skip
