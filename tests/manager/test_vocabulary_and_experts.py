"""`LoRAManager` over embeddings, LM heads and mixtures of experts: wrapped, loaded from files, all or nothing."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import lora_compat
from lora_compat import Adapter, LoRAConfig, LoRAError, LoRAManager, ModuleAdapter, PackedModules, TargetModules
from tests.manager.models import directory

IDS, WIDTH, EXPERTS, INNER = 11, 4, 3, 5
TOKENS = torch.tensor([3, 0, 10])
X = torch.eye(WIDTH)[:3]
WEIGHTS, ROUTES = torch.ones(3, 1), torch.arange(EXPERTS).view(3, 1)  # token i goes to expert i


class Served(nn.Module):
    """An embedding, an LM head and a mixture of experts that sends token i to expert i."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = lora_compat.VocabParallelEmbedding(IDS, WIDTH, padding_size=8)
        self.head = lora_compat.ParallelLMHead(IDS, WIDTH, padding_size=8)
        self.logits = lora_compat.LogitsProcessor(IDS)
        self.mlp = nn.Module()
        self.mlp.experts = lora_compat.FusedMoE(EXPERTS, 1, WIDTH, INNER)
        generator = torch.Generator().manual_seed(0)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator)
        self.requires_grad_(False)

    def outputs(self) -> dict[str, Tensor]:
        """What each module returns for three tokens."""
        return {
            "embed": self.embed(TOKENS),
            "head": self.logits(self.head, X),
            "mlp.experts": self.mlp.experts(X, WEIGHTS, ROUTES),
        }


def managed(**options: Any) -> tuple[Served, LoRAManager]:
    model = Served()
    return model, LoRAManager(model, LoRAConfig(max_loras=2, max_lora_rank=4), **options)


def module(out: int, columns: int, *, rank: int = 2, seed: int = 1) -> ModuleAdapter:
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(rank, columns, generator=generator), torch.randn(out, rank, generator=generator)
    return ModuleAdapter(a, b, 0.5)


def whole() -> Adapter:
    """Parts of the embedding, the head, and expert 1."""
    return Adapter(
        {
            "embed": module(WIDTH, IDS),
            "head": module(IDS, WIDTH, seed=2),
            "mlp.experts.1.gate_proj": module(INNER, WIDTH, seed=3),
            "mlp.experts.1.down_proj": module(WIDTH, INNER, seed=4),
        }
    )


def merged(adapter: Adapter) -> dict[str, Tensor]:
    """The outputs of a model that has the adapter's weights in its own."""
    model = Served()
    deltas = {name: part.scaling * part.lora_b @ part.lora_a for name, part in adapter.modules.items()}
    model.embed.weight.data[:IDS] += deltas["embed"].t()
    model.head.weight.data[:IDS] += deltas["head"]
    model.mlp.experts.w13_weight.data[1, :INNER] += deltas["mlp.experts.1.gate_proj"]
    model.mlp.experts.w2_weight.data[1] += deltas["mlp.experts.1.down_proj"]
    return model.outputs()


def test_every_token_is_served_as_by_merged_weights_and_others_as_by_the_base_model() -> None:
    model, manager = managed()
    base, right = model.outputs(), merged(whole())
    manager.add(1, whole())
    manager.activate(1)
    manager.map_tokens([1, 1, None])
    for name, served in model.outputs().items():
        torch.testing.assert_close(served[:2], right[name][:2])
        assert torch.equal(served[2], base[name][2])
    manager.deactivate(1)
    assert all(torch.equal(served, base[name]) for name, served in model.outputs().items())


def test_the_tokens_of_an_lm_head_are_mapped_on_their_own() -> None:
    model, manager = managed(towers=("head",))
    base, right = model.outputs(), merged(whole())
    manager.add(1, whole())
    manager.activate(1)
    manager.map_tokens([None] * 3)
    manager.map_tokens([1], tower="head")
    torch.testing.assert_close(model.logits(model.head, X[:1]), right["head"][:1])
    assert torch.equal(model.embed(TOKENS), base["embed"])


@pytest.mark.parametrize("broken", ["embed", "head", "mlp.experts"])
def test_a_load_that_breaks_off_leaves_every_kind_of_layer_as_it_was(
    broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, manager = managed()
    other = Adapter({name: module(*(part.lora_b.shape[0], part.lora_a.shape[1]), seed=9)
                     for name, part in whole().modules.items()})  # fmt: skip
    manager.add(1, whole())
    manager.activate(1)
    manager.map_tokens([1, 1, 1])
    before = model.outputs()
    manager.add(2, other)

    def load(*args: object) -> None:
        raise OSError("the copy failed")

    monkeypatch.setattr(type(manager.layers[broken]), "set_lora", load)
    with pytest.raises(OSError, match="the copy failed"):
        manager.activate(2)
    assert manager.slots == (1, None)
    monkeypatch.undo()
    assert all(torch.equal(served, before[name]) for name, served in model.outputs().items())


@pytest.mark.parametrize(
    ("name", "part", "said"),
    [
        ("embed", module(WIDTH, IDS - 1), r"LoRA A of module 'embed': expected a column for each of 11 ids"),
        ("head", module(IDS + 1, WIDTH), r"module 'head': expected 11 rows, received 12 rows"),
        ("mlp.experts.2.up_proj", module(INNER, WIDTH + 1), r"'mlp.experts.w13_weight': expected \(2, 4\)"),
        ("mlp.experts.3.up_proj", module(INNER, WIDTH), r"'in memory' has tensors for mlp.experts.3.up_proj"),
        ("mlp.experts.2.w1", module(INNER, WIDTH), r"mlp.experts.0.down_proj"),
        ("mlp.experts", module(INNER, WIDTH), r"tensors for mlp.experts, which no LoRA layer"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(name: str, part: ModuleAdapter, said: str) -> None:
    _, manager = managed()
    with pytest.raises(LoRAError, match=said):
        manager.add(1, Adapter({name: part}))
    assert manager.registered == ()


def test_the_projections_of_experts_go_by_the_names_they_are_given() -> None:
    _, manager = managed(packed_modules=PackedModules({"experts": ("w1", "w3", "w2")}))
    assert manager.add(1, Adapter({"mlp.experts.0.w2": module(WIDTH, INNER)}))


@pytest.mark.parametrize("target", ["embed", "head", "experts", "mlp.experts"])
def test_a_target_names_them_like_linear_layers(target: str) -> None:
    model = Served()
    manager = LoRAManager(model, LoRAConfig(), target_modules=[target])
    assert list(manager.layers) == [name for name in ("embed", "head", "mlp.experts") if name.endswith(target)]
    assert TargetModules([target])


def test_a_warm_up_fills_them_and_leaves_no_trace() -> None:
    model, manager = managed()
    base = model.outputs()
    with manager.warmed_up(3) as rank:
        assert rank == 4
        assert all(torch.equal(served + 0.0, base[name] + 0.0) for name, served in model.outputs().items())


def test_one_module_in_both_forms_is_refused(tmp_path: Path) -> None:
    pair = {"embed.lora_embedding_A": torch.ones(2, IDS), "embed.lora_embedding_B": torch.ones(WIDTH, 2)}
    twice = {f"base_model.model.{name}": tensor for name, tensor in pair.items()}
    twice["base_model.model.embed.lora_A.weight"] = torch.ones(2, IDS)
    _, manager = managed()
    with pytest.raises(LoRAError, match=r"module 'embed' has LoRA weights as a linear layer and as an embedding"):
        manager.add(1, directory(tmp_path / "adapter", twice))


@settings(max_examples=25, deadline=None, database=None, derandomize=True)
@given(
    config=st.fixed_dictionaries(
        {
            "r": st.integers(1, 4),
            "lora_alpha": st.sampled_from((1, 2, 8)),
            "use_rslora": st.booleans(),
            "rank_pattern": st.dictionaries(st.sampled_from(("embed", "head")), st.integers(1, 4)),
            "alpha_pattern": st.dictionaries(st.sampled_from(("embed", "mbed")), st.sampled_from((1, 3))),
        }
    ),
    seed=st.integers(0, 1000),
)
@pytest.mark.filterwarnings("ignore")
def test_peft_and_the_manager_agree_on_embeddings_and_heads(config: dict[str, Any], seed: int) -> None:
    peft = pytest.importorskip("peft", reason="compares with PEFT: install lora-compat[peft]")
    torch.manual_seed(seed)
    trained = nn.Module()
    trained.embed, trained.head = nn.Embedding(IDS, WIDTH), nn.Linear(WIDTH, IDS, bias=False)
    lora = peft.LoraConfig(target_modules=["embed", "head"], init_lora_weights=False, **config)
    adapted = peft.get_peft_model(trained, lora)
    model, manager = managed()
    base = model.outputs()
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        adapted.save_pretrained(folder)
        manager.add(1, folder)
        manager.activate(1)
        manager.map_tokens([1] * len(TOKENS))
        served = model.outputs()
        inner = adapted.base_model.model
        for name, x in (("embed", TOKENS), ("head", X)):
            layer = inner.get_submodule(name)
            delta = layer(x) - layer.base_layer(x)
            torch.testing.assert_close(served[name] - base[name], delta, rtol=1e-4, atol=1e-4)
