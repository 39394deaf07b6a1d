"""vLLM's own W8A8 FP8 (compressed-tensors, a scale per row and per token), which its CPU kernels run.

Its other schemes, tried on 0.33.0 with the ordinary wheel on a CPU without AMX: W8A16 FP8 and FP8 in blocks find no
kernel that can run; compressed-tensors int8, int4 of compressed-tensors, GPTQ and AWQ, and FP8 with a static scale per
tensor in a merged layer end in operators that the wheel's CPU build does not have.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

_MODULE = "vllm.model_executor.layers.quantization.compressed_tensors.compressed_tensors"
_E4M3 = {"num_bits": 8, "type": "float", "symmetric": True}
_CHECKPOINT = {
    "quant_method": "compressed-tensors",
    "format": "float-quantized",
    "ignore": [],
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {**_E4M3, "strategy": "channel", "dynamic": False},
            "input_activations": {**_E4M3, "strategy": "token", "dynamic": True},
        }
    },
}


def quant_config() -> Any:
    """The quantization config of such a checkpoint."""
    return importlib.import_module(_MODULE).CompressedTensorsConfig.from_config(_CHECKPOINT)


@contextmanager
def served_in_default_dtype() -> Iterator[None]:
    """The scheme's kernel asks the current config for the model's dtype; without a model, it is torch's default."""
    config = importlib.import_module("vllm.config").get_current_vllm_config()
    before = config.model_config
    config.model_config = SimpleNamespace(dtype=torch.get_default_dtype())
    try:
        yield
    finally:
        config.model_config = before


def is_fp8(layer: nn.Module) -> bool:
    """Whether ``layer`` still holds a checkpoint of this scheme."""
    weight = layer._parameters.get("weight")
    return weight is not None and weight.dtype is torch.float8_e4m3fn and "weight_scale" in layer._parameters


def load_quantized(layer: Any, loaded: Tensor, *shard: int | str) -> None:
    """Loads a dense checkpoint tensor as its e4m3 values and row scales, each through its parameter's loader."""
    scale = loaded.abs().amax(dim=1, keepdim=True).clamp(min=2.0**-20).float() / torch.finfo(torch.float8_e4m3fn).max
    values = (loaded / scale).to(torch.float8_e4m3fn)
    load = layer.weight.weight_loader
    load(layer.weight, values, *shard)
    # A class that loads in its own way loads its scales so, too.
    same = getattr(load, "__func__", None) is type(layer).weight_loader
    (load if same else layer.weight_scale.weight_loader)(layer.weight_scale, scale, *shard)
