"""Bugs planted in vLLM's LoRA layers, as run-time patches of what vLLM 0.33 has; nothing of its source is here."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from tests.mutants.planting import Mutant, plant, planted_in

LAYERS = "vllm.lora.layers."
BASE = LAYERS + "base_linear:BaseLinearLayerWithLoRA"
COLUMN = LAYERS + "column_parallel_linear:ColumnParallelLinearWithLoRA"
SHARDED_COLUMN = LAYERS + "column_parallel_linear:ColumnParallelLinearWithShardedLoRA"
MERGED = LAYERS + "column_parallel_linear:MergedColumnParallelLinearWithLoRA"
ROW = LAYERS + "row_parallel_linear:RowParallelLinearWithLoRA"
SHARDED_ROW = LAYERS + "row_parallel_linear:RowParallelLinearWithShardedLoRA"
PUNICA = "vllm.lora.punica_wrapper.punica_cpu:PunicaWrapperCPU"


def plant_in(
    owner: str, attribute: str, *, origin: str, clauses: str, anomalies: str
) -> Callable[[Callable[[Any], Any]], Mutant]:
    """Like `plant`, for an owner ``module:Class``, or ``module:``, that is imported when the bug comes alive."""

    def decorate(mutate: Callable[[Any], Any]) -> Mutant:
        def planted() -> AbstractContextManager[object]:
            module, _, name = owner.partition(":")
            found: Any = importlib.import_module(module)
            found = getattr(found, name) if name else found
            return plant(found, attribute, origin=origin, clauses=clauses, anomalies=anomalies)(mutate).patch()

        named = plant(object, attribute, origin=origin, clauses=clauses, anomalies=anomalies)(mutate)
        return Mutant(named.name, named.story, origin, named.clauses, named.anomalies, planted)

    return decorate


@plant_in(ROW, "slice_lora_a", origin="P3, lorax #47", clauses="MATH-1", anomalies="shard-misplaced")
def row_parallel_takes_the_first_columns(original):
    """Every row-parallel rank takes the first rank's columns of A."""
    return lambda self, lora_a: lora_a[:, : lora_a.shape[1] // self.tp_size]


@plant_in(COLUMN, "slice_lora_b", origin="one rank's rows for all", clauses="MATH-1", anomalies="shard-misplaced")
def column_parallel_takes_the_first_rows(original):
    """Every column-parallel rank takes the first rank's rows of B."""
    return lambda self, lora_b: lora_b[: lora_b.shape[0] // self.tp_size]


@plant_in(
    MERGED, "slice_lora_b", origin="order of the packed list", clauses="MATH-1", anomalies="slices-swapped raised"
)
def merged_slices_in_reverse(original):
    """The slices of a merged layer's B are laid out from the last to the first."""
    return lambda self, lora_b: list(original(self, lora_b))[::-1]


@plant_in(
    SHARDED_COLUMN, "slice_lora_a", origin="sharded A", clauses="MATH-1", anomalies="gather-skipped shard-misplaced"
)
def sharded_a_is_the_first_ranks(original):
    """Fully sharded, every rank holds the first rank's rows of A."""
    return lambda self, lora_a: lora_a[: self.lora_a_stacked[0].shape[2]]


@plant_in(SHARDED_ROW, "slice_lora_b", origin="sharded-B offset", clauses="MATH-1", anomalies="shard-misplaced raised")
def sharded_b_is_the_first_ranks(original):
    """Fully sharded and row-parallel, every rank holds the first rank's rows of B."""
    return lambda self, lora_b: lora_b[: self.lora_b_stacked[0].shape[2]]


@plant_in(BASE, "set_lora", origin="one sign", clauses="MATH-1", anomalies="scale-wrong")
def b_changes_sign(original):
    """B is written negated."""

    def set_lora(self, index, lora_a, lora_b):
        negated = [part if part is None else -part for part in lora_b] if isinstance(lora_b, list) else -lora_b
        original(self, index, lora_a, negated)

    return set_lora


@plant_in(BASE, "set_lora", origin="slot indices", clauses="MATH-2 MATH-1", anomalies="wrong-slot delta-dropped")
def every_adapter_in_the_first_slot(original):
    """Whatever the slot, the first is written."""
    return lambda self, index, lora_a, lora_b: original(self, 0, lora_a, lora_b)


@plant_in(BASE, "reset_lora", origin="vacuous reset check", clauses="MATH-5", anomalies="stale-slot")
def nothing_is_reset(original):
    """A slot is not emptied before it is written."""
    return lambda self, index: None


@plant_in(PUNICA, "add_lora_linear", origin="scaling", clauses="MATH-1", anomalies="delta-doubled")
def added_twice_by_the_kernels(original):
    """The CPU kernels add the contribution twice."""

    def add_lora_linear(self, y, x, lora_a_stacked, lora_b_stacked, scale, output_slices, **options):
        for _ in range(2):
            original(self, y, x, lora_a_stacked, lora_b_stacked, scale, output_slices, **options)

    return add_lora_linear


@plant_in(PUNICA, "add_expand", origin="the last slice", clauses="MATH-1", anomalies="delta-incomplete delta-dropped")
def the_first_column_is_not_expanded(original):
    """The first of several output columns gets nothing."""

    def add_expand(self, y, *arguments, **options):
        rows = y.view(-1, y.shape[-1])
        first = rows[:, 0].clone()
        original(self, y, *arguments, **options)
        if y.shape[-1] > 1:
            rows[:, 0] = first

    return add_expand


VLLM_MUTANTS = planted_in(sys.modules[__name__])
