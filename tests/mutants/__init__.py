"""Planted bugs, one module per chapter; `MUTANTS` is all of them, `BY_NAME` each by its name."""

from tests.mutants import (
    collectives,
    gathering,
    layouts,
    numbers,
    packing,
    sharding,
    slots,
    tokens,
    unwrapping,
    warmup,
    wrapping,
)
from tests.mutants.planting import Mutant, planted_in

MUTANTS: tuple[Mutant, ...] = tuple(
    mutant
    for module in (
        wrapping, unwrapping, warmup, gathering, sharding, packing, slots, tokens, numbers, layouts, collectives,
    )
    for mutant in planted_in(module)
)  # fmt: skip
BY_NAME = {mutant.name: mutant for mutant in MUTANTS}
