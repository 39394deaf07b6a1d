"""`LoRAManager`: what it replaces, whom it serves, and what it says when it cannot."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

import lora_compat
from lora_compat import LoRAConfig, LoRAError, LoRALinear, LoRAManager, UnsupportedLayerWarning
from tests.manager.models import PACKED, WIDTH, Served, adapter, managed

X = torch.eye(WIDTH)[:2]


def test_layers_are_replaced_and_an_alias_gets_the_same_wrapper() -> None:
    model, manager = managed()
    assert list(manager.layers) == ["attn.qkv_proj", "attn.o_proj", "mlp.gate"]
    assert model.mlp.gate is model.mlp.runner.gate
    assert type(model.head) is nn.Linear


@pytest.mark.parametrize("name", ["mlp.gate", "mlp.runner.gate"])
def test_an_adapter_may_use_either_name_of_a_module(name: str) -> None:
    model, manager = managed()
    base = model.outputs(X)["mlp.gate"]
    given = adapter(name)
    manager.add(1, given)
    manager.activate(1)
    manager.map_tokens([1, None])
    part = given.modules[name]
    delta = 0.5 * X[:1] @ part.lora_a.t() @ part.lora_b.t()
    torch.testing.assert_close(model.outputs(X)["mlp.gate"] - base, torch.cat([delta, torch.zeros(1, 3)]))


def test_a_second_manager_over_the_same_model_uses_its_wrappers() -> None:
    model, first = managed()
    second = LoRAManager(model, first.config, packed_modules=PACKED)
    assert second.layers == first.layers
    with pytest.raises(LoRAError, match=r"wrapped before with .*\(2, 4\), and is now wanted with \(3, 4\)"):
        LoRAManager(model, LoRAConfig(max_loras=3, max_lora_rank=4))


def test_a_token_whose_adapter_left_gets_the_base_model_and_never_the_next_adapter() -> None:
    model, manager = managed(max_loras=1, max_adapters=2)
    base = model.outputs(X)
    for number in (1, 2):
        manager.add(number, adapter("attn.o_proj", seed=number))
    manager.activate(1)
    manager.map_tokens([1, 1])
    assert not torch.equal(model.outputs(X)["attn.o_proj"], base["attn.o_proj"])
    manager.activate(2)
    assert manager.slots == (2,)
    assert torch.equal(model.outputs(X)["attn.o_proj"], base["attn.o_proj"])


def test_mapping_an_adapter_that_is_not_active_is_refused_and_the_former_map_stays() -> None:
    model, manager = managed()
    manager.add(1, adapter("mlp.gate"))
    manager.activate(1)
    manager.map_tokens([1, None])
    before = model.outputs(X)["mlp.gate"]
    with pytest.raises(LoRAError, match=r"adapter 7 is not active \(active: 1\): activate it before mapping"):
        manager.map_tokens([None, 7])
    assert torch.equal(model.outputs(X)["mlp.gate"], before)


def test_a_full_house_says_who_is_in_it() -> None:
    _, manager = managed(evict=False, max_adapters=3)
    for number in (1, 2, 3):
        manager.add(number, adapter("mlp.gate", seed=number))
    with pytest.raises(LoRAError, match=r"no free place for an adapter: all 3 are taken by adapters 1, 2, 3"):
        manager.add(4, adapter("mlp.gate"))
    manager.activate(1)
    manager.activate(2)
    with pytest.raises(LoRAError, match=r"no free slot: all 2 .* nobody is evicted here. .* or raise max_loras"):
        manager.activate(3)
    assert (manager.registered, manager.active) == ((3, 1, 2), (1, 2))


def test_pinned_adapters_stay_until_they_are_unpinned() -> None:
    _, manager = managed(max_loras=1, max_adapters=2)
    for number in (1, 2):
        manager.add(number, adapter("mlp.gate", seed=number))
    manager.pin(1)
    with pytest.raises(LoRAError, match="all are pinned"):
        manager.activate(2)
    manager.unpin(1)
    assert manager.activate(2)
    assert manager.active == (2,)


def test_towers_have_token_maps_of_their_own() -> None:
    model, manager = managed(towers=("mlp",))
    base = model.outputs(X)
    manager.add(1, adapter("mlp.gate", "attn.o_proj"))
    manager.activate(1)
    manager.map_tokens([1, None])
    manager.map_tokens([None, 1], tower="mlp")
    changed = {name: (out != base[name]).any(dim=1).tolist() for name, out in model.outputs(X).items()}
    assert (changed["attn.o_proj"], changed["mlp.gate"]) == ([True, False], [False, True])
    with pytest.raises(ValueError, match="no tower 'vision': give one of 'mlp', ''"):
        manager.map_tokens([1], tower="vision")


def test_a_warm_up_leaves_no_trace() -> None:
    model, manager = managed()
    base = model.outputs(X)
    manager.add(1, adapter("mlp.gate"))
    manager.activate(1)
    manager.map_tokens([1, None])
    served = model.outputs(X)["mlp.gate"]
    with manager.warmed_up(len(X)) as rank:
        assert rank == 4
        assert torch.equal(model.outputs(X)["mlp.gate"], base["mlp.gate"])
    assert torch.equal(model.outputs(X)["mlp.gate"], served)


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        (["nothing"], "'nothing' matches no module of the model; layers that can be named: attn.qkv_proj"),
        (["mlp"], "'mlp' matches only mlp, which holds layers and is none: name the layers in it"),
        (["gate", "head"], "names module 'head', but its class 'Linear' cannot carry LoRA"),
    ],
)
def test_a_target_that_cannot_be_wrapped_is_named_and_nothing_is_replaced(targets: list[str], said: str) -> None:
    model = Served()
    with pytest.raises(LoRAError) as caught:
        LoRAManager(model, LoRAConfig(), target_modules=targets)
    assert said in str(caught.value)
    assert not any(isinstance(module, LoRALinear) for module in model.modules())


@pytest.mark.parametrize("target", ["q_proj", "qkv_proj", "attn.qkv_proj", "attn.k_proj"])
def test_a_packed_layer_is_named_by_itself_and_by_its_children(target: str) -> None:
    manager = LoRAManager(Served(), LoRAConfig(), target_modules=[target], packed_modules=PACKED)
    assert list(manager.layers) == ["attn.qkv_proj"]


def test_an_untargeted_layer_that_cannot_be_wrapped_is_warned_of_once_and_left() -> None:
    model = Served()
    hollow = lora_compat.ReplicatedLinear(2, 2)
    hollow.weight = hollow.quant_method = None
    model.hollow = hollow
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        LoRAManager(model, LoRAConfig(), packed_modules=PACKED)
    assert [str(warning.message)[:7] for warning in given if warning.category is UnsupportedLayerWarning] == [
        "hollow:"
    ]
    assert model.hollow is hollow


def test_fewer_places_than_slots_make_no_sense() -> None:
    with pytest.raises(ValueError, match="max_adapters=1 is below max_loras=2"):
        managed(max_adapters=1)
