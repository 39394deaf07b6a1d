"""An adapter with one tensor for a whole packed layer crashes where that layer lists its members.

Clause MATH-8. Releases: 0.19.1, 0.20.0, 0.32.0, 0.33.0.
"""

# ruff: noqa: E402
import os

os.environ |= {"VLLM_TARGET_DEVICE": "cpu", "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_PLUGINS": ""}
os.environ |= {"HUMMING_DISABLE_PARALLEL_BUILD": "1"}  # or importing vLLM starts background builds

import sys

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

context = set_current_vllm_config(VllmConfig())
context.__enter__()
torch.set_grad_enabled(False)


class Group:
    """Stands in for the tensor-parallel group; the other ranks hold what this one holds."""

    def __init__(self, world_size, rank):
        self.world_size, self.rank_in_group = world_size, rank


def build(cls, *args, tp=1, rank=0, weight=0.0, **options):
    """A layer of rank ``rank`` of ``tp``, all of its weights ``weight``."""
    parallel_state._TP = Group(tp, rank)
    layer = cls(*args, bias=False, **options)
    layer.weight.data.fill_(weight)
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


wrapped = wrap(build(MergedColumnParallelLinear, 4, [2, 2]), ["gate_proj", "up_proj"])
try:
    wrapped.set_lora(0, torch.ones(1, 4), torch.ones(4, 1))
    got = forward(wrapped, torch.ones(1, 4), [0])[0].tolist()
except IndexError as error:
    got = f"IndexError: {error}"
expected = [[4.0] * 4]
report(expected, got, got != expected)
