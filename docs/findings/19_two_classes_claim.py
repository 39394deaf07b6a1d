"""Two LoRA layer classes claim a merged layer at TP 1 with fully_sharded_loras; their order in a list decides.

Clause WRAP-3. Releases: 0.20.0, 0.32.0, 0.33.0.
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
from vllm.lora.utils import _all_lora_classes
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


def report(expected, got, present):
    """Ends the script: 1 where the defect is there, 0 where not."""
    print(f"expected: {expected}\ngot:      {got}\n{'PRESENT' if present else 'absent'} in vLLM {vllm.__version__}")
    sys.exit(int(present))


layer = build(MergedColumnParallelLinear, 4, [2, 2])
config = LoRAConfig(max_lora_rank=8, max_loras=1, fully_sharded_loras=True, lora_dtype=torch.float32)
options = {"lora_config": config, "packed_modules_list": ["gate_proj", "up_proj"], "model_config": None}
got = [one.__name__ for one in _all_lora_classes if one.can_replace_layer(source_layer=layer, **options)]
report("one class", sorted(got), len(got) > 1)
