"""An adapter laid out by the map adds to each parameter what merging it into the checkpoint would."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lora_compat.checkpoint_map import CheckpointMap, NotMovedError, TensorInfo, added, load_factors
from lora_compat.checkpoint_map.expert_stacks import stacks_of
from lora_compat.errors import AdapterFormatError, LoRAError, UnknownModulesError
from tests.checkpoint_map.loaders import HIDDEN, INNER, VOCABULARY, Model, info, learned
from tests.checkpoint_map.sources import LINEAR, differences, made_by_peft, pair, written

OPTIONS: dict[str, dict[str, Any]] = {
    **{one: {"target_modules": [one]} for one in LINEAR},
    "all linear layers": {"target_modules": list(LINEAR)},
    # PEFT does not merge linear layers inside of a module with an adapted parameter.
    "nearly everything": {"target_modules": list(LINEAR[:-1]), "target_parameters": ["experts.down"]},
    "rank-stabilised": {"target_modules": ["q", "up"], "use_rslora": True, "r": 4},
    "patterns": {
        "target_modules": ["q", "k", "up"],
        "rank_pattern": {"attn.k": 1, "experts.1.up": 4},
        "alpha_pattern": {"q": 8},
    },
    "stacked experts": {"target_modules": [], "target_parameters": ["experts.down"]},
    "a bare parameter": {"target_modules": [], "target_parameters": ["router.weight"]},
}


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("options", OPTIONS)
def test_base_and_adapter_are_what_the_loader_makes_of_the_merged_checkpoint(
    options: str, transposed: bool, tmp_path: Path
) -> None:
    checkpoints = made_by_peft(tmp_path, transposed=transposed, **OPTIONS[options])
    for ranks in (1, 2):
        maps = [learned(rank, ranks, torch.float32) for rank in range(ranks)]
        for rank, found in enumerate(maps):
            assert differences(found, tmp_path, checkpoints, Model(rank, ranks, torch.float32), maps) == [], ranks


def test_an_embedding_goes_wherever_it_is_tied_to_and_says_that_it_is_one(tmp_path: Path) -> None:
    given = load_factors(written(tmp_path, {"embed*": pair(HIDDEN, VOCABULARY)}), learned()).factors
    assert sorted(given) == ["embed", "head"]
    assert given["embed"][0].looked_up
    assert torch.equal(given["head"][0].lora_b, given["embed"][0].lora_b)


def of_loader(targets: dict[str, torch.Tensor], load: Any, **shapes: TensorInfo) -> CheckpointMap:
    return CheckpointMap.learn(shapes, load, targets)


def test_a_module_of_the_model_that_serves_is_its_tensors_one_below_the_other(tmp_path: Path) -> None:
    target = torch.zeros(6, 3)
    found = of_loader(
        {"ab.weight": target},
        lambda weights: target.copy_(torch.cat([one for _, one in weights])),
        a=info(4, 3),
        b=info(2, 3),
    )
    a, b = pair(6, 3)
    given = load_factors(written(tmp_path, {"ab": (a, b)}), found).factors["ab.weight"]
    assert torch.equal(added((6, 3), given), (b @ a).double())


def test_a_module_that_is_fused_in_an_order_of_its_own_is_refused(tmp_path: Path) -> None:
    target = torch.zeros(6, 3)
    found = of_loader(
        {"ab.weight": target},
        lambda weights: target.copy_(torch.stack([one for _, one in weights], 1).flatten(0, 1)),
        a=info(3, 3),
        b=info(3, 3),
    )
    with pytest.raises(AdapterFormatError, match="in an order that does not say how they would be fused"):
        load_factors(written(tmp_path, {"ab": pair(6, 3)}), found)


@pytest.mark.parametrize("prefix", ["model.", "language_model.model."])
def test_names_with_another_prefix_are_those_of_the_checkpoint(prefix: str, tmp_path: Path) -> None:
    pairs = {f"{prefix}attn.{one}": pair(rows, HIDDEN) for one, rows in (("q", 8), ("v", 4))}
    given = load_factors(written(tmp_path, pairs), learned()).factors["qkv"]
    assert [one.rows.tensor().tolist() for one in given] == [list(range(8)), list(range(12, 16))]


def copied(**shapes: TensorInfo) -> CheckpointMap:
    """The map of a loader that copies every tensor as it is."""
    targets = {name: torch.zeros(one.shape) for name, one in shapes.items()}

    def load(weights: Any) -> None:
        for name, one in weights:
            targets[name].copy_(one)

    return CheckpointMap.learn(shapes, load, targets)


def towers(*prefixes: str) -> CheckpointMap:
    return copied(**{f"{prefix}layers.0.q.weight": info(4, 3) for prefix in prefixes})


def test_a_name_without_the_prefix_that_the_checkpoint_has_is_found(tmp_path: Path) -> None:
    given = load_factors(written(tmp_path, {"layers.0.q": pair(4, 3)}), towers("language."))
    assert list(given.factors) == ["language.layers.0.q.weight"]


def test_a_name_that_the_model_and_the_checkpoint_have_under_prefixes_of_their_own_is_one(tmp_path: Path) -> None:
    of_checkpoint, of_model = "bert.layers.0.q.weight", "model.layers.0.q.weight"
    held = {of_model: torch.zeros(4, 3)}
    found = CheckpointMap.learn(
        {of_checkpoint: info(4, 3, dtype=torch.float32)},
        lambda weights: held[of_model].copy_(dict(weights)[of_checkpoint]),
        held,
    )
    given = load_factors(written(tmp_path, {"layers.0.q": pair(4, 3)}), found)
    assert [delta.tensor for delta in given.deltas] == [of_checkpoint]
    assert list(given.factors) == [of_model]


@pytest.mark.parametrize(
    ("pattern", "scaling"), [("model.text.layers.0.q", 4.0), ("layers.0.q", 4.0), ("language.layers.0.q", 1.0)]
)
def test_patterns_are_matched_with_the_names_in_the_file(pattern: str, scaling: float, tmp_path: Path) -> None:
    """As PEFT does, which knows no names of checkpoints."""
    directory = written(tmp_path, {"model.text.layers.0.q": pair(4, 3)}, alpha_pattern={pattern: 8})
    (delta,) = load_factors(directory, towers("language.")).deltas
    assert delta.scaling == scaling


def test_patterns_of_parameters_are_matched_with_the_parameters_names(tmp_path: Path) -> None:
    options = {"target_parameters": ["q.weight"], "alpha_pattern": {"q.weight": 8}}
    (delta,) = load_factors(written(tmp_path, {"layers.0.q": pair(4, 3)}, **options), towers("")).deltas
    assert delta.scaling == 4.0


def numbered_experts(first: str) -> CheckpointMap:
    """A model whose experts have other names than in its checkpoint, of w1 and w3 the one on top that is ``first``."""
    held = {"layers.0.mlp.experts.w13": torch.zeros(2, 6, 4), "layers.0.mlp.experts.w2": torch.zeros(2, 4, 3)}

    def load(weights: Any) -> None:
        for name, one in weights:
            expert, which = int(name.split(".")[4]), name.split(".")[5]
            place = held[f"layers.0.mlp.experts.{'w2' if which == 'w2' else 'w13'}"][expert]
            (place if which == "w2" else place[:3] if which == first else place[3:]).copy_(one)

    shapes = {
        f"layers.0.moe.experts.{expert}.{which}.weight": info(
            *((4, 3) if which == "w2" else (3, 4)), dtype=torch.float32
        )
        for expert in range(2)
        for which in ("w1", "w2", "w3")
    }
    return CheckpointMap.learn(shapes, load, held)


@pytest.mark.parametrize("first", ["w1", "w3"])
@pytest.mark.parametrize("module", ["layers.0.moe.experts", "layers.0.mlp.experts", "layers.0.feed.forward.experts"])
def test_numbered_projections_are_gate_down_and_up_under_either_name(module: str, first: str, tmp_path: Path) -> None:
    found = numbered_experts(first)
    (a, b), (more_a, more_b) = pair(6, 4, 4), pair(4, 3, 4)
    pairs = {f"{module}.base_layer": (a, b), module: (more_a, more_b)}
    targets = ["experts.gate_up_proj", "experts.down_proj"]
    given = load_factors(written(tmp_path, pairs, target_parameters=targets), found).factors
    gate_up = torch.einsum("ore,eri->eoi", b.view(6, 2, 2), a.view(2, 2, 4)).double()
    right = gate_up if first == "w1" else torch.cat([gate_up[:, 3:], gate_up[:, :3]], 1)
    assert torch.equal(added((2, 6, 4), given["layers.0.mlp.experts.w13"]), right)
    down = torch.einsum("ore,eri->eoi", more_b.view(4, 2, 2), more_a.view(2, 2, 3)).double()
    assert torch.equal(added((2, 4, 3), given["layers.0.mlp.experts.w2"]), down)


def test_projections_of_which_one_is_called_otherwise_are_no_stack() -> None:
    shapes = {f"experts.0.{which}.weight": info(3, 4) for which in ("w1", "w2", "v1")}
    assert stacks_of(shapes, ["gate_up_proj"]) == {}


def test_a_name_that_could_be_of_two_towers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AdapterFormatError, match=r"could be 'text\.layers\.0\.q' or 'vision\.layers\.0\.q'"):
        load_factors(written(tmp_path, {"layers.0.q": pair(4, 3)}), towers("text.", "vision."))


PARTS = {
    "text.model.layers.0.q.weight": info(4, 3),
    "vision.tower.layers.0.q.weight": info(4, 3),
    "text.model.embed.weight": info(5, 3),
    "text.head.weight": info(5, 3),
}


@pytest.mark.parametrize(
    "modules",
    [
        {"model.text.layers.0.q": "text.model.layers.0.q.weight"},
        {"model.vision.layers.0.q": "vision.tower.layers.0.q.weight"},
        {
            "model.text.layers.0.q": "text.model.layers.0.q.weight",
            "model.vision.layers.0.q": "vision.tower.layers.0.q.weight",
            "head": "text.head.weight",
        },
        {"model.text.embed": "text.model.embed.weight", "head": "text.head.weight"},
    ],
)
def test_parts_of_a_model_have_prefixes_of_their_own(modules: dict[str, str], tmp_path: Path) -> None:
    directory = written(tmp_path, {one: pair(4 if one.endswith("q") else 5, 3) for one in modules})
    deltas = load_factors(directory, copied(**PARTS)).deltas
    assert {one.module: one.tensor for one in deltas} == modules


@pytest.mark.parametrize(
    ("module", "error"),
    [("layers.0.q", AdapterFormatError), ("model.audio.layers.0.q", AdapterFormatError),
     ("model.audio.embed", UnknownModulesError), ("text.layers.1.q", UnknownModulesError)],
)  # fmt: skip
def test_a_part_that_no_word_tells_is_refused(module: str, error: type[LoRAError], tmp_path: Path) -> None:
    pairs = {module: pair(4, 3), "head": pair(5, 3)}
    with pytest.raises(error, match=module):
        load_factors(written(tmp_path, pairs), copied(**PARTS))


def test_another_layer_is_not_another_prefix(tmp_path: Path) -> None:
    with pytest.raises(UnknownModulesError, match=r"layers\.1\.q"):
        load_factors(written(tmp_path, {"layers.1.q": pair(4, 3)}), towers(""))


@pytest.mark.parametrize(
    ("module", "shape", "error", "said"),
    [
        ("norm", (HIDDEN, 1), UnknownModulesError, "tensors for norm"),
        ("unused", (3, 3), NotMovedError, "keeps no element as it was of 'unused.weight'"),
        ("attn.qq", (8, HIDDEN), UnknownModulesError, r"attn\.qq, .* take attn\.q,"),
        ("attn.q", (4, HIDDEN), AdapterFormatError, r"'attn\.q\.weight': \(8, 6\)"),
    ],
)
def test_what_cannot_go_anywhere_is_refused_by_name(
    module: str, shape: tuple[int, int], error: type[LoRAError], said: str, tmp_path: Path
) -> None:
    directory = written(tmp_path, {"attn.k": pair(4, HIDDEN), module: pair(*shape)})
    with pytest.raises(error, match=said):
        load_factors(directory, learned())


def test_what_the_loader_computes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotMovedError, match=r"router\.weight"):
        load_factors(written(tmp_path, {"router": pair(3, HIDDEN)}), learned(bug="router-scaled"))


def test_rows_that_are_on_no_rank_are_refused(tmp_path: Path) -> None:
    one, directory = learned(0, 2), written(tmp_path, {"attn.q": pair(8, HIDDEN)})
    with pytest.raises(NotMovedError, match=r"4 rows and 0 columns to no place of 'attn\.q\.weight'"):
        load_factors(directory, one)
    assert load_factors(directory, one, ranks=(one, learned(1, 2))).factors


def test_the_same_weights_twice_are_refused(tmp_path: Path) -> None:
    directory = written(tmp_path, {"attn.q": pair(8, HIDDEN), "model.attn.q": pair(8, HIDDEN)})
    with pytest.raises(LoRAError, match=r"attn\.q"):
        load_factors(directory, learned())


def stacks(*shapes: tuple[int, ...]) -> CheckpointMap:
    return copied(**{f"experts.{name}": info(*shape) for name, shape in zip("xyz", shapes, strict=False)})


def stacked(rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
    return pair(rows, columns, 2 * 3)


def test_square_experts_are_refused_where_nothing_tells_which_way_round(tmp_path: Path) -> None:
    with pytest.raises(AdapterFormatError, match="both ways round"):
        load_factors(written(tmp_path, {"experts": stacked(6, 6)}), stacks((3, 6, 6)))


@pytest.mark.parametrize("turned", [False, True])
def test_square_experts_are_the_way_round_of_the_module_s_other_tensor(turned: bool, tmp_path: Path) -> None:
    a, b = stacked(6, 6)
    other = stacked(6, 12) if turned else stacked(12, 6)
    found = stacks((3, 6, 6), (3, 12, 6))
    given = load_factors(written(tmp_path, {"experts": (a, b), "experts.base_layer": other}), found).factors
    delta = torch.einsum("ore,eri->eoi", b.reshape(6, 2, 3), a.reshape(3, 2, 6)).double()
    assert torch.equal(added((3, 6, 6), given["experts.x"]), delta.mT if turned else delta)


def test_a_pair_that_could_be_of_two_tensors_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AdapterFormatError, match="in 2 ways, exactly one is needed"):
        load_factors(written(tmp_path, {"experts": stacked(8, 6)}), stacks((3, 8, 6), (3, 8, 6)))


def test_conv1d_is_told_by_its_shape(tmp_path: Path) -> None:
    a, b = pair(3, 4)
    given = load_factors(written(tmp_path, {"layers.0.q": (a, b)}), towers("")).factors["layers.0.q.weight"]
    assert torch.equal(added((4, 3), given), (b @ a).t().double())


@pytest.mark.parametrize("turned", [False, True])
def test_square_conv1d_is_told_by_the_config(turned: bool, tmp_path: Path) -> None:
    a, b = pair(4, 4)
    directory = written(tmp_path, {"x": (a, b)}, fan_in_fan_out=turned)
    given = load_factors(directory, copied(**{"x.weight": info(4, 4)})).factors["x.weight"]
    assert torch.equal(added((4, 4), given), (b @ a).double().t() if turned else (b @ a).double())


def test_ranks_that_the_config_does_not_promise_are_refused(tmp_path: Path) -> None:
    made_by_peft(tmp_path, target_modules=["q"], target_parameters=["experts.down"])
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, "rank_pattern": {"experts.down": 1}}))
    with pytest.raises(AdapterFormatError, match="expected 3 experts of rank 1"):
        load_factors(tmp_path, learned())


def test_half_a_pair_is_refused_by_name(tmp_path: Path) -> None:
    made_by_peft(tmp_path, target_modules=["q"])
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    del tensors["base_model.model.attn.q.lora_B.weight"]
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    with pytest.raises(AdapterFormatError, match=r"'attn\.q' has lora_A alone"):
        load_factors(tmp_path, learned())


def test_half_of_a_linear_layer_and_half_of_an_embedding_are_refused(tmp_path: Path) -> None:
    made_by_peft(tmp_path, target_modules=["q"])
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    tensors["base_model.model.attn.q.lora_embedding_B"] = tensors.pop("base_model.model.attn.q.lora_B.weight")
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    with pytest.raises(AdapterFormatError, match="as a linear layer and as an embedding"):
        load_factors(tmp_path, learned())


def test_factors_of_a_transposed_tensor_are_the_parameter_s(tmp_path: Path) -> None:
    given = load_factors(written(tmp_path, {"experts": stacked(INNER, HIDDEN)}), learned()).factors["experts_down"]
    assert [(one.at, one.lora_b.shape, one.lora_a.shape) for one in given] == [
        (at, (HIDDEN, 2), (2, INNER)) for at in range(3)
    ]
