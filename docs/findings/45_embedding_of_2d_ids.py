"""Of two-dimensional ids only the first of each row is asked for its adapter; the others get that one's A.

Clause MATH-14. Releases: 0.19.1, 0.20.0, 0.32.0, 0.33.0.
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
from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding

context = set_current_vllm_config(VllmConfig())
context.__enter__()
torch.set_grad_enabled(False)


class Group:
    """Stands in for the tensor-parallel group; what the other ranks would add is zero."""

    def __init__(self, world_size, rank):
        self.world_size, self.rank_in_group = world_size, rank

    def all_reduce(self, x):
        return x


def serve(layer, ids, mapping):
    """What the LoRA layer of ``layer`` gives for ``ids``; adapter n has A n and B one, of rank 1."""
    config = LoRAConfig(max_lora_rank=8, max_loras=2, lora_dtype=torch.float32)
    lora = from_layer(layer, 2, config, [], None)
    for slot in (0, 1):
        lora.set_lora(slot, torch.full((1, 4), slot + 1.0), torch.ones(1, 1))
    punica = get_punica_wrapper(8, max_batches=8, device="cpu", lora_config=config)
    lora.set_mapping(punica)
    punica.update_metadata(LoRAMapping(mapping, mapping, is_prefill=False), [1, 2], 3, 4)
    return lora(torch.tensor(ids)).tolist()


def report(expected, got, present):
    """Ends the script: 1 where the defect is there, 0 where not."""
    print(f"expected: {expected}\ngot:      {got}\n{'PRESENT' if present else 'absent'} in vLLM {vllm.__version__}")
    sys.exit(int(present))


parallel_state._TP = Group(1, 0)
layer = VocabParallelEmbedding(4, 1, padding_size=4)
layer.weight.data.fill_(1.0)
try:
    got = serve(layer, [[0, 0]], mapping=(1, 2))
except Exception as error:
    got = f"{type(error).__name__}: {error}"
report([[[2.0], [3.0]]], got, got != [[[2.0], [3.0]]])
