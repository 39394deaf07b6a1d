"""A manager with a map serves what PEFT merges, and nothing is declared; what it cannot serve it refuses by name."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

import lora_compat
from conformance.engines.ranks import RankGroup
from conformance.engines.threads import ThreadsEngine
from lora_compat import LoRAConfig, LoRAManager, PackedModules
from lora_compat.checkpoint_map import CheckpointMap, shapes_in
from tests.mapped.models import EXPERTS, HIDDEN, IDS, INNER, loaded, made, maps

TOKENS = torch.arange(IDS)
EVERY_EXPERT = [f"experts.{n}.{name}" for n in range(EXPERTS) for name in ("gate_proj", "up_proj", "down_proj")]
TARGETS: dict[str, dict[str, Any]] = {
    "rows in another order": {"target_modules": ["q"]},
    "packed": {"target_modules": ["q", "k", "v"]},
    "one of three": {"target_modules": ["k"]},
    "interleaved": {"target_modules": ["gate_up"]},
    "row parallel": {"target_modules": ["o", "down"]},
    "repeated": {"target_modules": ["short"]},
    "a plain linear layer": {"target_modules": ["block.gate"]},
    "a bare parameter": {"target_modules": [], "target_parameters": ["block.router"]},
    "an embedding": {"target_modules": ["embed"]},
    "a plain embedding": {"target_modules": ["positions"]},
    "all experts": {"target_modules": EVERY_EXPERT},
    "one expert's projection": {"target_modules": ["experts.1.up_proj"]},
    "fused experts": {
        "target_modules": [],
        "target_parameters": ["experts.gate_up_proj", "experts.down_proj"],
        "rank_pattern": {"experts.down_proj": 1},
        "fused": True,
    },
    "scalings of their own": {"target_modules": ["q", "k"], "alpha_pattern": {"k": 8}, "rank_pattern": {"k": 1}},
    "a module saved whole": {"target_modules": ["q"], "modules_to_save": ["block.gate"]},
    "everything": {
        "target_modules": ["embed", "q", "k", "v", "o", "gate_up", "down", "short", "block.gate", *EVERY_EXPERT],
        "use_rslora": True,
        "r": 4,
    },
}


def manager(model: Any, found: list[CheckpointMap], rank: int = 0, **options: Any) -> LoRAManager:
    config = LoRAConfig(max_loras=2, max_lora_rank=4, **options)
    return LoRAManager(model, config, checkpoint=found[rank], ranks=found)


def served(model: Any, managed: LoRAManager, ids: list[int | None]) -> Tensor:
    managed.map_tokens(ids)
    out: Tensor = model(TOKENS)
    return out


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("what", TARGETS)
def test_an_adapter_gives_what_the_merged_checkpoint_gives(what: str, tied: bool, tmp_path: Path) -> None:
    where = made(tmp_path, tied=tied, **TARGETS[what])
    base, merged, model = (loaded(where / one, tied=tied) for one in ("base", "merged", "base"))
    if tied and "embed" in TARGETS[what]["target_modules"]:
        merged.head.weight = base.head.weight  # PEFT adapts the lookups alone
    managed = manager(model, maps(where / "base", tied=tied))
    assert torch.equal(model(TOKENS), base(TOKENS))
    managed.add(5, where / "adapter")
    managed.activate(5)
    assert torch.equal(served(model, managed, [5] * IDS), merged(TOKENS))
    mixed = served(model, managed, [5, None] * (IDS // 2) + [5])
    assert torch.equal(mixed[::2], merged(TOKENS)[::2])
    assert torch.equal(mixed[1::2], base(TOKENS)[1::2])
    managed.remove(5)
    assert torch.equal(model(TOKENS), base(TOKENS))


@pytest.mark.parametrize("what", TARGETS)
def test_it_is_the_same_on_two_ranks_of_which_one_holds_no_id(what: str, tmp_path: Path) -> None:
    where = made(tmp_path, tied=False, **TARGETS[what])
    merged = loaded(where / "merged", tied=False)(TOKENS)

    def program(group: RankGroup, fully_sharded: bool) -> Tensor:
        with lora_compat.tensor_parallel(group):
            model = loaded(where / "base", tied=False)
        found = maps(where / "base", group.size, tied=False)
        managed = manager(model, found, group.rank, fully_sharded_loras=fully_sharded)
        managed.add(1, where / "adapter")
        managed.activate(1)
        return served(model, managed, [1] * IDS)

    for fully_sharded in (False, True):
        together = ThreadsEngine().run(2, partial(program, fully_sharded=fully_sharded))
        assert all(torch.equal(one, merged) for one in together), f"{fully_sharded=}"


@pytest.mark.parametrize("one_module", [False, True])
def test_a_tied_weight_takes_adapters_of_either_end(one_module: bool, tmp_path: Path) -> None:
    where = made(tmp_path / "embedding", target_modules=["embed"])
    other = made(tmp_path / "head", tied=False, target_modules=["head"])
    model = loaded(where / "base", one_module=one_module)
    managed = manager(model, maps(where / "base", one_module=one_module))
    for number, one in enumerate((where, other), 1):
        managed.add(number, one / "adapter")
        managed.activate(number)
    base, merged = loaded(where / "base"), loaded(where / "merged")
    merged.head.weight = base.head.weight
    assert torch.equal(served(model, managed, [1] * IDS), merged(TOKENS))
    ends = loaded(other / "merged", tied=False).head.weight - loaded(other / "base", tied=False).head.weight
    right = loaded(where / "base")
    right.head.weight = torch.nn.Parameter(right.head.weight + ends)
    assert torch.equal(served(model, managed, [2] * IDS), right(TOKENS))


def test_a_mixture_runs_with_the_base_weights_again_afterwards(tmp_path: Path) -> None:
    where = made(tmp_path, target_modules=EVERY_EXPERT)
    model = loaded(where / "base")
    before = {name: one.clone() for name, one in model.named_parameters()}
    managed = manager(model, maps(where / "base"))
    managed.add(1, where / "adapter")
    managed.activate(1)
    served(model, managed, [1] * IDS)
    assert all(torch.equal(before[name], one) for name, one in model.named_parameters() if "experts" in name)


@pytest.mark.parametrize(
    ("packed", "said"),
    [
        ({"qkv": ("k", "q", "v")}, "packed_modules says that 'qkv' is k, q, v, and the model's loader makes it of q"),
        (
            {"qkv": ("q", "k", "v")},
            "'qkv' is q, k, v one behind the other, .* makes it of the rows of q.weight in ano",
        ),
        ({"gate_up": ("gate", "up")}, ""),
        ({"twice": ("left", "right")}, "'twice' is left, right, and the model's loader makes it of short"),
        (
            {"experts": ("up_proj", "gate_proj", "down_proj")},
            "'block.experts' is up_proj, .* makes it of gate_proj, up_",
        ),
        ({"experts": ("gate_proj", "up_proj", "down_proj")}, ""),
    ],
)
def test_a_mapping_that_the_loader_contradicts_is_an_error(
    packed: dict[str, tuple[str, ...]], said: str, tmp_path: Path
) -> None:
    where = made(tmp_path, target_modules=["o"])
    model, (found,) = loaded(where / "base"), maps(where / "base")
    if not said:
        LoRAManager(model, LoRAConfig(), checkpoint=found, packed_modules=PackedModules(packed))
        return
    with pytest.raises(lora_compat.LoRAError, match=said):
        LoRAManager(model, LoRAConfig(), checkpoint=found, packed_modules=PackedModules(packed))


def test_targets_are_named_as_the_model_or_the_checkpoint_does(tmp_path: Path) -> None:
    where = made(tmp_path, target_modules=["q", "o"])
    model, (found,) = loaded(where / "base"), maps(where / "base")
    managed = LoRAManager(model, LoRAConfig(), checkpoint=found, target_modules=["q", "block.router", "gate_up"])
    assert sorted(managed.layers) == ["block.router", "gate_up", "qkv"]
    with pytest.raises(lora_compat.LoRAError, match=r"adapts 'o', .* 'o.weight', which target_modules does not name"):
        managed.add(1, where / "adapter")
    with pytest.raises(lora_compat.LoRAError, match="'z' matches no module"):
        LoRAManager(loaded(where / "base"), LoRAConfig(), checkpoint=found, target_modules=["z"])


@pytest.mark.parametrize("pickled", [False, True])
def test_an_embedding_that_the_file_repeats_has_to_be_the_models(pickled: bool, tmp_path: Path) -> None:
    where = made(tmp_path, target_modules=["embed"])
    file = where / "adapter" / "adapter_model.safetensors"
    base = loaded(where / "base").embed.weight[:IDS].float()
    tensors = load_file(file) | {"base_model.model.embed.base_layer.weight": base.contiguous()}
    for trained in (False, True):
        base[2, 1] += trained
        save_file(tensors, file)
        if pickled:
            torch.save(tensors, file.with_suffix(".bin"))
            file.unlink()
        managed = manager(loaded(where / "base"), maps(where / "base"))
        if trained:
            with pytest.raises(lora_compat.LoRAError, match=r"embed.base_layer.weight is no LoRA weight, .* trained"):
                managed.add(1, where / "adapter")
        else:
            assert managed.add(1, where / "adapter")


@pytest.mark.parametrize(
    ("key", "shape", "saved", "said"),
    [
        ("norm.weight", (HIDDEN,), (), "norm.weight .4,. is no LoRA weight, and no weight that the base model has"),
        ("block.gate.weight", (EXPERTS, HIDDEN), (), "block.gate.weight is .* it was trained. Merge"),
        ("embed.weight", (IDS, HIDDEN), ("embed",), r"it was trained \(modules_to_save=\['embed'\]\). Merge"),
        ("down.weight", (HIDDEN, INNER), ("down",), "'down': expected a rank .* max_lora_rank=2, which a module that"),
        ("o.bias", (HIDDEN,), ("o",), "o.bias .4,. is no LoRA weight, and no weight that the base model has"),
    ],
)
def test_what_is_saved_whole_and_cannot_be_served_is_refused_by_name(
    key: str, shape: tuple[int, ...], saved: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    where = made(tmp_path, target_modules=["q"])
    file, config = (where / "adapter" / one for one in ("adapter_model.safetensors", "adapter_config.json"))
    save_file(load_file(file) | {f"base_model.model.{key}": torch.full(shape, 7.0)}, file)
    config.write_text(json.dumps(json.loads(config.read_text()) | {"modules_to_save": list(saved)}))
    found = maps(where / "base")[0]
    managed = LoRAManager(loaded(where / "base"), LoRAConfig(max_lora_rank=2), checkpoint=found)
    with pytest.raises(lora_compat.LoRAError, match=said):
        managed.add(1, where / "adapter")
    assert managed.registered == ()


def test_a_head_that_the_checkpoint_has_and_the_model_ties_is_compared_with_what_it_holds(tmp_path: Path) -> None:
    where = made(tmp_path, target_modules=["q"])
    base, file = (where / one for one in ("base/model.safetensors", "adapter/adapter_model.safetensors"))
    embedding = load_file(base)["embed.weight"]
    save_file(load_file(base) | {"head.weight": embedding.clone()}, base)
    model = loaded(where / "base")
    load = model.load_weights
    model.load_weights = lambda weights: load(one for one in weights if one[0] != "head.weight")  # type: ignore[method-assign]
    managed = manager(model, [CheckpointMap.of(model, shapes_in(where / "base"))])
    pairs = load_file(file)
    save_file(pairs | {"base_model.model.head.weight": embedding + 1}, file)
    with pytest.raises(lora_compat.LoRAError, match=r"head.weight is no LoRA weight, .* trained"):
        managed.add(1, where / "adapter")
    save_file(pairs | {"base_model.model.head.weight": embedding}, file)
    assert managed.add(1, where / "adapter")


def test_experts_whose_names_do_not_say_how_they_are_fused_are_refused(tmp_path: Path) -> None:
    where = made(tmp_path, target_modules=[], target_parameters=["experts.gate_up_proj"], fused=True)
    config = where / "adapter" / "adapter_config.json"
    config.write_text(config.read_text().replace("experts.gate_up_proj", "experts.w1_w3"))
    managed = manager(loaded(where / "base"), maps(where / "base"))
    with pytest.raises(lora_compat.LoRAError, match=r"has tensors for block\.experts, which no LoRA layer"):
        managed.add(1, where / "adapter")


def test_a_rank_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    where = made(tmp_path, target_modules=["q"], r=8)
    managed = manager(loaded(where / "base"), maps(where / "base"))
    with pytest.raises(
        lora_compat.LoRAError, match="module 'q': expected a rank of at most max_lora_rank=4, received 8"
    ):
        managed.add(1, where / "adapter")


def test_a_copy_that_no_adapter_reaches_is_refused(tmp_path: Path) -> None:
    where = made(tmp_path, target_modules=["o", "short"])
    model = loaded(where / "base")
    model.register_buffer("absorbed", model.twice.weight.T.clone())
    load = model.load_weights

    def loading(weights: Any) -> None:
        load(weights)
        model.absorbed.copy_(model.twice.weight.T)

    model.load_weights = loading  # type: ignore[method-assign]
    managed = manager(model, [CheckpointMap.of(model, shapes_in(where / "base"))])
    with pytest.raises(
        lora_compat.LoRAError, match=r"adapts 'short', .* in 'absorbed', which is made of it while load"
    ):
        managed.add(1, where / "adapter")


def test_a_use_of_a_bare_parameter_that_is_no_product_is_refused(tmp_path: Path) -> None:
    where = made(tmp_path, target_modules=[], target_parameters=["block.router"])
    model = loaded(where / "base")
    managed = manager(model, maps(where / "base"))
    managed.add(1, where / "adapter")
    managed.activate(1)
    managed.map_tokens([1] * IDS)
    model.block.forward = lambda x: x * model.block.router.sum()
    with pytest.raises(lora_compat.LoRAError, match="called on the base weight"):
        model(TOKENS)
    model.block.forward = lambda x: x
    with pytest.raises(lora_compat.LoRAError, match="did not multiply with it"):
        model(TOKENS)


def test_a_map_of_another_model_is_refused(tmp_path: Path) -> None:
    where = made(tmp_path, target_modules=["q"])
    found = maps(where / "base")
    model = loaded(where / "base")
    model.down = lora_compat.ReplicatedLinear(6, 5)
    with pytest.raises(lora_compat.LoRAError, match=r"has 'down.weight' as \(4, 6\), and the model as \(5, 6\)"):
        manager(model, found)


def test_a_warm_up_serves_dummies_in_every_layer(tmp_path: Path) -> None:
    where = made(tmp_path, target_modules=["q"])
    model, base = loaded(where / "base"), loaded(where / "base")
    managed = manager(model, maps(where / "base"))
    with managed.warmed_up(IDS) as rank:
        assert rank == 4
        assert torch.equal(model(TOKENS), base(TOKENS))


def test_a_map_that_is_none_of_the_ranks_is_refused(tmp_path: Path) -> None:
    where = made(tmp_path, target_modules=["q"])
    (found,), others = maps(where / "base"), maps(where / "base", 2)
    with pytest.raises(ValueError, match="this rank's checkpoint map is none of them"):
        LoRAManager(loaded(where / "base"), LoRAConfig(), checkpoint=found, ranks=others)


def test_one_rank_of_two_does_not_pass_for_all(tmp_path: Path) -> None:
    where = made(tmp_path, tied=False, target_modules=["q"])

    def program(group: RankGroup) -> None:
        with lora_compat.tensor_parallel(group):
            model = loaded(where / "base", tied=False)
        found = maps(where / "base", 2, tied=False)[group.rank]
        managed = LoRAManager(model, LoRAConfig(), checkpoint=found)
        with pytest.raises(lora_compat.LoRAError, match="moves 4 rows and 0 columns to no place"):
            managed.add(1, where / "adapter")

    ThreadsEngine().run(2, program)


def test_a_layer_that_an_adapter_has_nothing_for_is_the_base_model_s(tmp_path: Path) -> None:
    """It may be of other tokens, as that of a vision tower is, and use its weight as it likes."""
    where = made(tmp_path, target_modules=["q"])
    model = loaded(where / "base")
    managed = manager(model, maps(where / "base"))
    managed.add(1, where / "adapter")
    managed.activate(1)
    managed.map_tokens([1] * IDS)
    few = torch.ones(2, HIDDEN, dtype=torch.float64)
    assert model.down(torch.ones(2, INNER, dtype=torch.float64)).shape == (2, HIDDEN)
    assert model.positions(torch.tensor([0])).shape == (1, HIDDEN)
    assert model.block(few).shape == few.shape
    assert model.block.router.sum() == loaded(where / "base").block.router.sum()
    with pytest.raises(lora_compat.LoRAError, match="multiplies 2 tokens, but the batch maps 7"):
        model.qkv(few)


def test_an_embedding_that_is_not_looked_up_in_its_own_way_is_refused(tmp_path: Path) -> None:
    where = made(tmp_path, tied=False, target_modules=["positions", "embed"])
    model = loaded(where / "base", tied=False)
    managed = manager(model, maps(where / "base", tied=False))
    managed.add(1, where / "adapter")
    managed.activate(1)
    managed.map_tokens([1] * IDS)
    for weight in (model.positions.weight, model.embed.weight):
        with pytest.raises(lora_compat.LoRAError, match="embedding was called on the base weight"):
            functional.embedding(TOKENS, weight)
        with pytest.raises(lora_compat.LoRAError, match="was called on the base weight"):
            weight.unsqueeze(0)
        assert functional.linear(torch.ones(2, HIDDEN, dtype=torch.float64), weight).shape == (2, len(weight))
    managed.deactivate(1)
    assert functional.embedding(TOKENS, model.positions.weight).shape == (IDS, HIDDEN)
