"""An adapter laid out by the map adds to each parameter what merging it into the checkpoint would."""

from __future__ import annotations

import pytest
import torch

from lora_compat import Adapter, ModuleAdapter
from lora_compat.checkpoint_map import TensorNotServed, delta, factors, unserved
from tests.checkpoint_map.loaders import HIDDEN, SHAPES, VOCABULARY, Model, learned

SERVED = [
    name.removesuffix(".weight")
    for name, one in SHAPES.items()
    if name.endswith(".weight") and len(one.shape) == 2 and name not in ("embed.weight", "unused.weight")
]


def part_of(module: str, rank: int = 2) -> ModuleAdapter:
    rows, columns = SHAPES[f"{module}.weight"].shape
    generator = torch.Generator().manual_seed(len(module))
    a, b = (torch.randint(-2, 3, shape, generator=generator).float() for shape in ((rank, columns), (rows, rank)))
    return ModuleAdapter(a, b, 0.5)


def whole_numbers() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randint(-8, 9, one.shape, generator=generator).to(one.dtype) for name, one in SHAPES.items()}


@pytest.mark.parametrize(("rank", "ranks"), [(0, 1), (0, 2), (1, 2)])
@pytest.mark.parametrize("module", [*SERVED, "all of them"])
def test_base_and_factors_are_what_the_loader_makes_of_the_merged_checkpoint(
    module: str, rank: int, ranks: int
) -> None:
    adapter = Adapter({one: part_of(one) for one in (SERVED if module == "all of them" else [module])})
    base, merged = Model(rank, ranks, torch.float32), Model(rank, ranks, torch.float32)
    weights = whole_numbers()
    base.load_weights(weights.items())
    for name, part in adapter.modules.items():
        weights[f"{name}.weight"] = weights[f"{name}.weight"].float() + part.scaling * (part.lora_b @ part.lora_a)
    merged.load_weights(weights.items())
    found = learned(rank, ranks, torch.float32)
    given = factors(found, adapter)
    right = dict(merged.named_parameters())
    for name, parameter in base.named_parameters():
        added = delta(found, name, given.get(name, ()))
        assert torch.equal(parameter.double() + added, right[name].double()), name


def test_an_embedding_goes_wherever_it_is_tied_to() -> None:
    a, b = torch.ones(2, VOCABULARY), torch.arange(2.0 * HIDDEN).view(HIDDEN, 2)  # as PEFT has them
    found = learned()
    given = factors(found, Adapter({"embed": ModuleAdapter(a, b, 1.0, embedding=True)}))
    assert sorted(given) == ["embed", "head"]
    assert torch.equal(delta(found, "head", given["head"])[:VOCABULARY], (b @ a).t().double())


@pytest.mark.parametrize(
    ("module", "part", "said"),
    [
        ("norm", ModuleAdapter(torch.ones(1, 1), torch.ones(HIDDEN, 1)), "computes something of it"),
        ("unused", ModuleAdapter(torch.ones(1, 3), torch.ones(3, 1)), "it skips it"),
        ("attn.qq", ModuleAdapter(torch.ones(1, HIDDEN), torch.ones(8, 1)), "the nearest modules are attn.q"),
        ("attn.q", ModuleAdapter(torch.ones(1, HIDDEN), torch.ones(4, 1)), r"not of the checkpoint's weight \(8, 6\)"),
    ],
)
def test_what_cannot_go_anywhere_is_refused_by_name(module: str, part: ModuleAdapter, said: str) -> None:
    adapter = Adapter({"attn.k": part_of("attn.k"), module: part})
    with pytest.raises(TensorNotServed, match=said):
        factors(learned(), adapter)
    (only,) = unserved(learned(), adapter)
    assert module in only
