"""Models whose code is published with their weights: modules as the checkpoint names them, for PEFT to adapt.

What is made has no forward. Its linear layers, embeddings and other parameters are those that the loader of vLLM's
class takes, at the places that their names say; PEFT writes, reads and merges adapters of it as of any model.
"""

from __future__ import annotations

import importlib
import json
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors.torch import save_file
from torch import nn

from conformance.implementations.vllm.models.checkpoint_names import CheckpointTensor, tensors_taken
from conformance.subjects.models.counterparts import transformers
from conformance.subjects.models.remote_code import REMOTE_CODE

_CONVOLUTIONS: Mapping[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


class Skeleton(nn.Module):
    """The modules that hold a checkpoint's tensors."""

    def __init__(self, tensors: Mapping[str, CheckpointTensor], config: Any, decoder: str = "") -> None:
        super().__init__()
        self.config = config
        self._decoder = decoder
        for name in tensors:
            _place(self, name, tensors)

    def get_input_embeddings(self) -> nn.Module:
        """The first that looks rows up; the whole, where a class of its own does."""
        return next((one for one in self.modules() if isinstance(one, nn.Embedding)), self)

    def get_output_embeddings(self) -> None:
        """Nothing here shares its weight with anything."""

    def get_decoder(self) -> nn.Module:
        """The language model among towers."""
        if not self._decoder:
            raise NotImplementedError
        return self.get_submodule(self._decoder)

    def prepare_inputs_for_generation(self) -> NoReturn:
        """There is no forward; PEFT looks for the name."""
        raise NotImplementedError

    def save_pretrained(self, directory: Path) -> None:
        """Writes the checkpoint; the content of config.json is its maker's to complete."""
        directory.mkdir(parents=True, exist_ok=True)
        tensors = {name: parameter.detach().contiguous() for name, parameter in self.named_parameters()}
        save_file(tensors, directory / "model.safetensors", {"format": "pt"})
        (directory / "config.json").write_text("{}", encoding="utf-8")


def skeleton(architecture: str, content: Mapping[str, Any]) -> Skeleton:
    """The modules of a config.json's checkpoint, uninitialized, in the default dtype and on the default device."""
    tensors = _tensors(architecture, json.dumps(content, sort_keys=True))
    config = config_class(architecture)(**content)
    return Skeleton({one.name: one for one in tensors}, config, REMOTE_CODE[architecture].decoder)


@cache
def _tensors(architecture: str, content: str) -> tuple[CheckpointTensor, ...]:
    config_class(architecture)
    code = REMOTE_CODE[architecture]
    with tempfile.TemporaryDirectory(prefix="lora-compat-") as folder:
        (Path(folder) / "config.json").write_text(content, encoding="utf-8")
        return tensors_taken(Path(folder), code.names, code.experts, code.packed)


@cache
def config_class(architecture: str) -> Any:
    """A class of its configurations: transformers' or vLLM's own, or one that keeps what it is given.

    The last stands in for the class that is published with the weights; it is made known as that one would be.
    """
    model_type = REMOTE_CODE[architecture].model_type
    shipped = importlib.import_module("vllm.transformers_utils.config")._CONFIG_REGISTRY
    for known in () if REMOTE_CODE[architecture].kept else (transformers().CONFIG_MAPPING, shipped):
        if model_type in known:
            return known[model_type]
    kept: Any = importlib.import_module("conformance.subjects.models.kept_configs")  # whose base is transformers'
    return kept.kept_config(model_type, known=model_type in shipped)


def _place(root: nn.Module, name: str, tensors: Mapping[str, CheckpointTensor]) -> None:
    """Puts the parameter of a tensor where its name says."""
    path, _, leaf = name.rpartition(".")
    *parents, last = path.split(".")
    place = root
    for part in parents:
        if not hasattr(place, part):
            place.add_module(part, nn.Module())
        place = place.get_submodule(part)
    one = tensors[name]
    if hasattr(place, last):  # a bias, after its weight
        module = place.get_submodule(last)
        if getattr(module, leaf, None) is None:
            module.register_parameter(leaf, _parameter(one))
    elif leaf == "weight" and len(one.shape) == 2:
        rows, columns = one.shape
        bias = f"{path}.bias" in tensors
        place.add_module(last, nn.Embedding(rows, columns) if one.embeds else nn.Linear(columns, rows, bias=bias))
    elif one.convolves:
        outputs, inputs, *kernel = one.shape
        place.add_module(
            last, _CONVOLUTIONS[len(kernel)](inputs, outputs, tuple(kernel), bias=f"{path}.bias" in tensors)
        )
    else:
        module = nn.Module()
        module.register_parameter(leaf, _parameter(one))
        place.add_module(last, module)


def _parameter(one: CheckpointTensor) -> nn.Parameter:
    return nn.Parameter(torch.empty(one.shape))
