"""The same adapter directory gives through PEFT on torch's layers what it gives through `LoRAManager`."""

from __future__ import annotations

import tempfile
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.manager.models import SIZES, WIDTH, managed


@pytest.fixture(scope="module")
def peft() -> Any:
    """Takes three seconds to import, which the tests beside it do not wait for."""
    return pytest.importorskip("peft", reason="compares with PEFT: install lora-compat[peft]")


NAMES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate")
PATTERNS = (*NAMES, "attn.q_proj", "mlp.gate", r"[kv]_proj", "attn.*", "proj")
ranks, alphas = st.integers(1, 4), st.sampled_from((1, 2, 3, 8, 0.5))


def patterns(values: Any) -> Any:
    """By names in the order that PEFT saves them in: the first that matches decides, and it may be another then."""
    return st.dictionaries(st.sampled_from(PATTERNS), values, max_size=3).map(
        lambda given: dict(sorted(given.items()))
    )


class Trained(nn.Module):
    """The checkpoint's own modules, as PEFT saw them."""

    def __init__(self) -> None:
        super().__init__()
        self.attn, self.mlp = nn.Module(), nn.Module()
        for name, size in SIZES.items():
            parent, _, last = name.partition(".")
            getattr(self, parent).add_module(last, nn.Linear(WIDTH, size, bias=False))


@settings(max_examples=40, deadline=None, database=None, derandomize=True)
@given(
    config=st.fixed_dictionaries(
        {
            "r": ranks,
            "lora_alpha": alphas,
            "use_rslora": st.booleans(),
            "rank_pattern": patterns(ranks),
            "alpha_pattern": patterns(alphas),
            "target_modules": st.lists(st.sampled_from(NAMES), min_size=1, unique=True),
        }
    ),
    seed=st.integers(0, 1000),
)
@pytest.mark.filterwarnings("ignore")
def test_peft_and_the_manager_agree_on_every_module(peft: Any, config: dict[str, Any], seed: int) -> None:
    torch.manual_seed(seed)
    trained = peft.get_peft_model(Trained(), peft.LoraConfig(init_lora_weights=False, **config))
    model, manager = managed()
    x = torch.randn(3, WIDTH)
    base = model.outputs(x)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        trained.save_pretrained(folder)
        loaded = peft.PeftModel.from_pretrained(Trained(), folder)
        manager.add(1, folder)
        manager.activate(1)
        manager.map_tokens([1] * len(x))
        served = model.outputs(x)
        for name in SIZES:
            layer = loaded.base_model.model.get_submodule(name)
            weight = getattr(layer, "base_layer", layer).weight
            delta = layer(x) - nn.functional.linear(x, weight)
            torch.testing.assert_close(served[name] - base[name], delta, rtol=1e-4, atol=1e-4)
