"""An adapter of Qwen4Exp's hyper-connections is not asked for batches of a few tokens, as decoding has them.

Where the down projection and the injection's are bfloat16 on a Hopper GPU or later, a fused kernel is handed the
weight of the wrapped layer, for up to MAX_FUSED_M tokens. The method that chooses is called here, with what the kernel
computes by torch.
Clause WRAP-7. Releases: 0.33.0.
"""

# ruff: noqa: E402
import os

os.environ |= {"VLLM_TARGET_DEVICE": "cpu", "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_PLUGINS": ""}
os.environ |= {"HUMMING_DISABLE_PARALLEL_BUILD": "1"}  # or importing vLLM starts background builds

import sys
from types import SimpleNamespace as Plain

import torch
import vllm.platforms
from vllm.platforms.cpu import CpuPlatform

vllm.platforms._current_platform = CpuPlatform()  # the wheel of a machine without a GPU has none

from vllm.config import VllmConfig, set_current_vllm_config
from vllm.config.lora import LoRAConfig
from vllm.distributed import parallel_state
from vllm.lora.layers import LoRAMapping
from vllm.lora.punica_wrapper import get_punica_wrapper
from vllm.lora.utils import from_layer
from vllm.model_executor.layers.linear import MergedColumnParallelLinear
from vllm.models.qwen4_exp.nvidia import hyperconnection

context = set_current_vllm_config(VllmConfig())
context.__enter__()
torch.set_grad_enabled(False)


class Group:
    """Stands in for the tensor-parallel group; the other ranks hold what this one holds."""

    def __init__(self, world_size, rank):
        self.world_size, self.rank_in_group = world_size, rank


def build(cls, *args, **options):
    """A layer of one rank, all of its weights zero."""
    parallel_state._TP = Group(1, 0)
    layer = cls(*args, bias=False, **options)
    layer.weight.data.zero_()
    layer.cpu_linear = torch.nn.functional.linear
    return layer


def wrap(layer, names=(), sharded=False, max_loras=1):
    """vLLM's LoRA layer for it, or the layer itself where vLLM leaves it alone."""
    config = LoRAConfig(max_lora_rank=8, max_loras=max_loras, fully_sharded_loras=sharded, lora_dtype=torch.float32)
    return from_layer(layer, max_loras, config, list(names), None)


def forward(wrapped, x, slots, **extra):
    """One forward with each token's slot, -1 for none."""
    max_loras = wrapped.lora_config.max_loras
    device = torch.device("cpu")
    tokens = get_punica_wrapper(64, max_batches=64, device=device, lora_config=wrapped.lora_config)
    wrapped.set_mapping(tokens)
    ids = tuple(slot + 1 for slot in slots)
    tokens.update_metadata(LoRAMapping(ids, ids), list(range(1, max_loras + 1)), max_loras + 1, 32)
    return wrapped(x, **extra)


def report(expected, got, present):
    """Ends the script: 1 where the defect is there, 0 where not."""
    print(f"expected: {expected}\ngot:      {got}\n{'PRESENT' if present else 'absent'} in vLLM {vllm.__version__}")
    sys.exit(int(present))


def down_silu(x, weight, rank, count):
    """What the fused kernel computes."""
    down, inject = (x @ weight[: rank + count].T).split([rank, count], dim=-1)
    return torch.nn.functional.silu(down / count), inject


hyperconnection.hc_silu, hyperconnection.hc_down_silu = lambda x, count: torch.nn.functional.silu(x / count), down_silu
layer = build(MergedColumnParallelLinear, 4, [2, 2, 2], disable_tp=True, return_bias=False)
wrapped = wrap(layer, ["input_mix_weight_down", "block_inject_weight", "_input_mix_padding"])
wrapped.set_lora(0, [torch.ones(1, 4)] * 3, [torch.ones(2, 1)] * 3)
x = torch.ones(1, 4)
forward(wrapped, x, [0])  # which maps the token


def injected(fused):
    """The injection of one token that has the adapter."""
    residual = Plain(use_combine=True, _use_hc_down_silu=fused, input_mix_weight_down_block_inject=wrapped)
    residual.hc_lowrank, residual.hc_count, residual.pad_size = 2, 2, 2
    return hyperconnection.GatedResidual._down_and_inject(residual, x)[1].tolist()


report(f"{injected(False)}, as without the kernel", injected(True), injected(True) != injected(False))
