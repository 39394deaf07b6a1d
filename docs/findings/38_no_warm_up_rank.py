"""The dummy adapters of the warm-up have rank 8 also where 32 ranks must cut it.

Clause RANK-1. Releases: 0.19.1.
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

from types import SimpleNamespace

from vllm.config import VllmConfig, set_current_vllm_config
from vllm.lora.model_manager import LoRAModelManager

context = set_current_vllm_config(VllmConfig())
context.__enter__()
torch.set_grad_enabled(False)


def report(expected, got, present):
    """Ends the script: 1 where the defect is there, 0 where not."""
    print(f"expected: {expected}\ngot:      {got}\n{'PRESENT' if present else 'absent'} in vLLM {vllm.__version__}")
    sys.exit(int(present))


choose = getattr(LoRAModelManager, "get_dummy_lora_warmup_rank", lambda manager, default: default)
config = SimpleNamespace(fully_sharded_loras=True, max_lora_rank=64)
experts = SimpleNamespace(fully_sharded=True, tp_size=32)
got = choose(SimpleNamespace(lora_config=config, modules={"experts": experts}), 8)
report("a multiple of 32", got, got % 32 != 0)
