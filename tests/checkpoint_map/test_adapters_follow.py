"""An adapter laid out by the map adds to each parameter what merging it into the checkpoint would."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from lora_compat import LoRAError
from lora_compat.checkpoint_map import CheckpointMap, added, load_factors
from tests.checkpoint_map.loaders import HIDDEN, SHAPES, VOCABULARY, Model, learned

SERVED = [
    name.removesuffix(".weight")
    for name, one in SHAPES.items()
    if name.endswith(".weight") and len(one.shape) == 2 and name not in ("embed.weight", "unused.weight")
]
RANK, ALPHA = 2, 1.0
Pair = tuple[Tensor, Tensor]


def saved(directory: Path, pairs: dict[str, Pair], *, looked_up: bool = False) -> Path:
    """A directory as PEFT's ``save_pretrained`` writes it."""
    tensors = {}
    for module, (a, b) in pairs.items():
        for letter, tensor in (("A", a), ("B", b)):
            name = f"lora_embedding_{letter}" if looked_up else f"lora_{letter}.weight"
            tensors[f"base_model.model.{module}.{name}"] = tensor.contiguous()
    save_file(tensors, directory / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "target_modules": list(pairs)}
    (directory / "adapter_config.json").write_text(json.dumps(config))
    return directory


def pair_of(module: str) -> Pair:
    rows, columns = SHAPES[f"{module}.weight"].shape
    generator = torch.Generator().manual_seed(len(module))
    a, b = (torch.randint(-2, 3, shape, generator=generator).float() for shape in ((RANK, columns), (rows, RANK)))
    return a, b


def whole_numbers() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randint(-8, 9, one.shape, generator=generator).to(one.dtype) for name, one in SHAPES.items()}


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("module", [*SERVED, "all of them"])
def test_base_and_factors_are_what_the_loader_makes_of_the_merged_checkpoint(
    module: str, ranks: int, tmp_path: Path
) -> None:
    pairs = {one: pair_of(one) for one in (SERVED if module == "all of them" else [module])}
    maps = [learned(rank, ranks, torch.float32) for rank in range(ranks)]
    for rank, found in enumerate(maps):
        given = load_factors(saved(tmp_path, pairs), found, ranks=maps).factors
        base, merged = Model(rank, ranks, torch.float32), Model(rank, ranks, torch.float32)
        weights = whole_numbers()
        base.load_weights(weights.items())
        for name, (a, b) in pairs.items():
            weights[f"{name}.weight"] = weights[f"{name}.weight"].float() + ALPHA / RANK * (b @ a)
        merged.load_weights(weights.items())
        right = dict(merged.named_parameters())
        for name, parameter in base.named_parameters():
            whole = parameter.double()
            if name in given:
                whole = whole + added(tuple(parameter.shape), given[name])
            assert torch.equal(whole, right[name].double()), name


def test_an_embedding_goes_where_its_table_went(tmp_path: Path) -> None:
    a, b = torch.ones(RANK, VOCABULARY), torch.arange(2.0 * HIDDEN).view(HIDDEN, RANK)  # as PEFT has them
    found = learned(dtype=torch.float32)
    given = load_factors(saved(tmp_path, {"embed": (a, b)}, looked_up=True), found).factors
    delta = added((VOCABULARY + 3, HIDDEN), given["embed"])
    assert torch.equal(delta[:VOCABULARY], ALPHA / RANK * (b @ a).t().double())


@pytest.mark.parametrize(
    ("module", "pair"),
    [
        ("unused", (torch.ones(RANK, 3), torch.ones(3, RANK))),
        ("attn.qq", (torch.ones(RANK, HIDDEN), torch.ones(8, RANK))),
        ("attn.q", (torch.ones(RANK, HIDDEN), torch.ones(4, RANK))),
    ],
    ids=["skipped", "unknown", "of another shape"],
)
def test_what_cannot_go_anywhere_is_refused_by_name(module: str, pair: Pair, tmp_path: Path) -> None:
    found: CheckpointMap = learned()
    with pytest.raises(LoRAError, match=module):
        load_factors(saved(tmp_path, {"attn.k": pair_of("attn.k"), module: pair}), found)
