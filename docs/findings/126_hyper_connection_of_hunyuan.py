"""Adapters of HunYuan V4's hyper-connections are loaded and not asked on a GPU: a kernel is handed the base weight.

`hc_fn` is a wrapped layer. In half precision on a GPU its forward is not called; the kernel for all of the
connection gets `hc_fn.weight`. So does that of gated attention, `linear_gate.weight`, where that library is installed.
The module's own forward is called here, and what the kernel is handed is looked at.
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
from vllm.model_executor.layers.linear import ReplicatedLinear
from vllm.models.hy_v4.nvidia import hc

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


handed = []
hc.triton_ihc_supported = lambda x: True
hc.triton_ihc_pre = lambda x, weight, *others: handed.append(weight)
wrapped = wrap(build(ReplicatedLinear, 4, 2))
wrapped.set_lora(0, torch.ones(1, 4), torch.ones(2, 1))
x = torch.ones(1, 4)
expected = forward(wrapped, x, [0])[0].tolist()
called = []
wrapped.register_forward_hook(lambda *given: called.append(True))
connection = Plain(hpc_op=None, hc_fn=wrapped, hc_scale=None, hc_base=None, magnitude=1, hc_eps=0, layernorm_epsilon=0)
hc.HYV4HCPreLayer.forward(connection, x.view(1, 2, 2))
got = torch.nn.functional.linear(x, handed[0]).tolist()
report(f"{expected}, or the layer called", f"{got}, and the layer is not called", got != expected and not called)
