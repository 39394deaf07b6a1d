"""Adapters of DeepSeek V4's compressors are loaded and not asked: their weight is multiplied with by itself.

The class of NVIDIA's GPUs declares LoRA, and `fused_wkv_wgate` packed of wkv and wgate; a compressor and that of the
indexer are projected by `torch.mm` with the wrapped layer's weight. So is wo_a, by a fused kernel that no CPU runs;
DeepSeek V4.1 likewise. The attention's own method is called here, with `torch.mm` in float32 as no CPU has it.
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
from vllm.models.deepseek_v4.attention import DeepseekV4Attention
from vllm.models.deepseek_v4.nvidia.model import DeepseekV4ForCausalLM

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


multiply = torch.mm
torch.mm = lambda one, other, out_dtype: multiply(one, other).to(out_dtype)
members = DeepseekV4ForCausalLM.packed_modules_mapping["fused_wkv_wgate"]
layer = build(MergedColumnParallelLinear, 4, [2, 2], disable_tp=True, return_bias=False)
wrapped = wrap(layer, members)
wrapped.set_lora(0, [torch.ones(1, 4)] * 2, [torch.ones(2, 1)] * 2)
x = torch.ones(1, 4)
expected = forward(wrapped, x, [0]).tolist()
attention = Plain(
    aux_stream_list=None, ln_events=[None] * 4, indexer=None, compressor=Plain(fused_wkv_wgate=wrapped),
    _fused_wqa_wkv_gemm=lambda hidden: None,
)  # fmt: skip
got = DeepseekV4Attention._run_parallel_input_projections(attention, x)[1].tolist()
report(f"scores of a compressor of {members}, each with its adapter: {expected}", got, got != expected)
