"""Fully sharded, a rank holds its part of an adapter where all ranks would hold the same."""

from __future__ import annotations

from pathlib import Path

import lora_compat
from conformance.engines.ranks import RankGroup
from conformance.engines.threads import ThreadsEngine
from lora_compat import LoRAConfig, LoRAManager
from lora_compat.slot_layer import SlotLayer
from tests.mapped.models import loaded, made, maps

Sizes = dict[str, tuple[int, int]]


def held(where: Path, size: int, *, fully_sharded: bool) -> Sizes:
    """By layer the ranks in A and the rows of B on the first rank."""

    def program(group: RankGroup) -> Sizes:
        with lora_compat.tensor_parallel(group):
            model = loaded(where, tied=False)
        config = LoRAConfig(max_lora_rank=4, fully_sharded_loras=fully_sharded)
        found = maps(where, size, tied=False)
        manager = LoRAManager(model, config, checkpoint=found[group.rank], ranks=found)
        layers = {name: layer for name, layer in manager.layers.items() if isinstance(layer, SlotLayer)}
        return {name: (one.slots.lora_a.shape[2], one.slots.lora_b.shape[1]) for name, one in layers.items()}

    return ThreadsEngine().run(size, program)[0]


def test_ranks_of_column_layers_and_rows_of_row_layers_are_cut(tmp_path: Path) -> None:
    where = made(tmp_path, tied=False, target_modules=["q"]) / "base"
    whole, cut = held(where, 2, fully_sharded=False), held(where, 2, fully_sharded=True)
    assert whole["qkv"] == (3 * 4, 8)  # three tensors' ranks, half of the rows
    assert cut["qkv"] == (3 * 4 // 2, 8)
    assert (whole["o"], cut["o"]) == ((4, 4), (4, 2))
    assert cut["twice"] == whole["twice"] == (4, 4)  # repeated rows are one tensor's
    assert cut["block.gate"] == whole["block.gate"] == (4, 3)
