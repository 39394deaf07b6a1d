"""vLLM's own loaders: the map moves a checkpoint as they do, and says where vLLM declares something else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lora_compat.checkpoint_map import CheckpointMap, Origin, shapes_in

pytestmark = pytest.mark.vllm

# What is computed of a checkpoint, and what is declared otherwise, on one rank.
MODELS: dict[str, tuple[set[str], str]] = {
    "LlamaForCausalLM": (set(), ""),
    "Phi3ForCausalLM": (set(), ""),
    "Qwen3MoeForCausalLM": (set(), ""),
    "DeepseekV3ForCausalLM": (set(), ""),
    "GptOssForCausalLM": (set(), ""),
    "JambaForCausalLM": ({"model.layers.0.mamba.A", "model.layers.2.mamba.A"}, ""),
    "Llama4ForCausalLM": (set(), "q_proj.weight in another order than LoRA B has them"),
    "GraniteMoeForCausalLM": (set(), "router"),
}


def saved(name: str, directory: Path) -> None:
    """A small checkpoint of an architecture, of numbers in no order."""
    from conformance.subjects.models.configs import small_config
    from conformance.subjects.models.making import complete, made
    from conformance.subjects.models.types import resolve
    from strategies.models.configs import ConfigChoices

    target = resolve(name)
    content = {**small_config(target, ConfigChoices()), "dtype": "float32"}
    model: Any = made(target, content)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(directory)
    complete(directory, content)


@pytest.mark.parametrize("name", MODELS)
def test_a_checkpoint_moved_by_the_map_is_what_vllm_makes_of_it(name: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    from conformance.implementations.vllm.models.bare import alone, bare_model
    from conformance.implementations.vllm.models.declarations import Declarations, contradictions

    computed, said = MODELS[name]
    saved(name, tmp_path)
    tensors = {key: one for file in tmp_path.glob("*.safetensors") for key, one in load_file(file).items()}
    with bare_model(tmp_path, torch.float32, alone()) as (model, _):
        found = CheckpointMap.of(model, shapes_in(tmp_path))
        model.load_weights(iter(tensors.items()))
        parameters = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers())
        for key, one in found.parameters.items():
            if one.whole:
                assert torch.equal(found.applied(key, tensors).to(parameters[key].dtype), parameters[key]), key
        assert {key for key, one in found.parameters.items() if Origin.COMPUTED in one.others} == computed
        differing = list(contradictions(found, Declarations(model)))
    assert bool(differing) == bool(said), differing
    assert any(said in line for line in differing) or not said, differing
