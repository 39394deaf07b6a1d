"""A wrong map, and an adapter laid out wrongly by a right one, differ from what the model makes of merged weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from lora_compat.checkpoint_map import CheckpointMap
from tests.checkpoint_map.loaders import Model, learned
from tests.checkpoint_map.mutants import DTYPE, LAYING_OUT, MAPS, wrong_map
from tests.checkpoint_map.sources import LINEAR, differences, made_by_peft


@pytest.fixture(scope="module")
def right() -> CheckpointMap:
    return learned(dtype=DTYPE)


@pytest.mark.parametrize("bug", MAPS)
def test_a_wrong_map_is_caught_in_the_parameter_that_it_is_wrong_in(
    bug: str, right: CheckpointMap, tmp_path: Path
) -> None:
    if MAPS[bug][0] == "experts_down":
        checkpoints = made_by_peft(tmp_path, target_modules=[], target_parameters=["experts.down"])
    else:
        checkpoints = made_by_peft(tmp_path, target_modules=list(LINEAR))
    assert differences(right, tmp_path, checkpoints, Model(dtype=DTYPE)) == []
    wrong = wrong_map(bug, right)
    # What the wrong map loses is elsewhere in the right one, so that it is not refused for that.
    assert differences(wrong, tmp_path, checkpoints, Model(dtype=DTYPE), (wrong, right)) == [MAPS[bug][0]]


def test_the_map_of_rank_one_on_rank_two_is_caught(tmp_path: Path) -> None:
    maps = [learned(rank, 2, DTYPE) for rank in range(2)]
    checkpoints = made_by_peft(tmp_path, target_modules=list(LINEAR))
    assert differences(maps[1], tmp_path, checkpoints, Model(1, 2, DTYPE), maps) == []
    wrong = differences(maps[0], tmp_path, checkpoints, Model(1, 2, DTYPE), maps)
    assert wrong == ["qkv", "gate_up", "down", "experts_up"]


@pytest.mark.parametrize("bug", LAYING_OUT)
def test_an_adapter_laid_out_wrongly_is_caught(
    bug: str, right: CheckpointMap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, method, wrong, options = LAYING_OUT[bug]
    checkpoints = made_by_peft(tmp_path, **options)
    assert differences(right, tmp_path, checkpoints, Model(dtype=DTYPE)) == []
    monkeypatch.setattr(owner, method, wrong)
    assert differences(right, tmp_path, checkpoints, Model(dtype=DTYPE))
