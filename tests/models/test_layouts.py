"""What a model computes without LoRA is compared with what it computes with it where both are built alike."""

from __future__ import annotations

import torch

from conformance.test_models import of_one_layout


def test_modules_of_another_layout_with_lora_are_left_out_and_others_are_not() -> None:
    bare = {"qkv": {"weight": torch.ones(6, 2)}, "o": {"weight": torch.ones(2, 2), "gate_up": torch.ones(1)}}
    served = {
        "qkv": {"weight": torch.ones(4, 2)},
        "indexer": {"weight": torch.ones(2, 2)},
        "o": {"weight": torch.zeros(2, 2)},
    }
    compared = of_one_layout(bare, served)
    assert list(compared["qkv"]) == []
    assert "weight" in compared["o"]
