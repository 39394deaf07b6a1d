"""Fully sharded, a rank holds its part of an adapter; and what each holds of the base, all of them judge alike."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

import lora_compat
from conformance.engines.ranks import RankGroup
from conformance.engines.threads import ThreadsEngine
from lora_compat import LoRAConfig, LoRAManager, PackedModules
from lora_compat.checkpoint_map import CheckpointMap
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


def answers(where: Path, found: list[CheckpointMap], *, inside: bool = True, **options: Any) -> list[str]:
    """What every rank says to the adapter: nothing where it takes it."""

    def program(group: RankGroup) -> str:
        with lora_compat.tensor_parallel(group):
            model = loaded(where / "base", tied=False)
        try:
            with lora_compat.tensor_parallel(group if inside else lora_compat.parallel.SINGLE):
                mine = found[group.rank]
                manager = LoRAManager(model, LoRAConfig(), checkpoint=mine, ranks=found, **options)
            manager.add(1, where / "adapter")
        except lora_compat.LoRAError as error:
            return str(error)
        return ""

    return ThreadsEngine().run(len(found), program)


@pytest.mark.parametrize("module", ["o", "q", "embed", "gate_up", "block.gate"])
def test_a_weight_that_is_not_the_base_s_in_one_rank_s_part_is_refused_by_all(module: str, tmp_path: Path) -> None:
    where = made(tmp_path, tied=False, target_modules=["k"])
    found, file = maps(where / "base", 2, tied=False), where / "adapter" / "adapter_model.safetensors"
    tensors, weight = load_file(file), load_file(where / "base" / "model.safetensors")[f"{module}.weight"]
    for place in (None, (0, 0), (-1, -1)):  # of nobody, of the first rank, of the second
        repeated = weight.clone()
        if place is not None:
            repeated[place] += 1
        save_file(tensors | {f"base_model.model.{module}.weight": repeated}, file)
        first, second = answers(where, found)
        assert first == second
        assert (f"{module}.weight is no LoRA weight, and not what the base model has" in first) is (place is not None)
        assert bool(first) is (place is not None)


def test_ranks_that_cannot_tell_each_other_take_no_weight_of_the_base(tmp_path: Path) -> None:
    where = made(tmp_path, tied=False, target_modules=["q"], modules_to_save=["o"])
    said = answers(where, maps(where / "base", 2, tied=False), inside=False)
    assert all("make the manager inside tensor_parallel() of their group, not of 1" in one for one in said)


def test_a_mapping_that_one_rank_contradicts_is_refused_by_all(tmp_path: Path) -> None:
    where = made(tmp_path, tied=False, target_modules=["o"])
    first, second = maps(where / "base", 2, tied=False)
    padding = replace(second.parameters["qkv.weight"], pieces=())  # as of a rank with nothing but padding
    found = [first, replace(second, parameters={**second.parameters, "qkv.weight": padding})]
    said = answers(where, found, packed_modules=PackedModules({"qkv": ("k", "q", "v")}))
    assert len(set(said)) == 1
    assert "packed_modules says that 'qkv' is k, q, v" in said[0]
