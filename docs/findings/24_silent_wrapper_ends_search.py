"""A wrapper without a quant method between two others ends the search for the base layer's weight.

Clause UNWRAP-2, UNWRAP-3. Releases: 0.19.1, 0.20.0, 0.32.0, 0.33.0.
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
from vllm.distributed import parallel_state
from vllm.model_executor.layers.linear import ReplicatedLinear
from vllm.model_executor.layers.quantization.utils.quant_utils import get_and_maybe_dequant_weights

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


class Wrapper(torch.nn.Module):
    def __init__(self, base_layer):
        super().__init__()
        self.base_layer = base_layer


outermost = Wrapper(Wrapper(build(ReplicatedLinear, 4, 2, weight=1.0)))
try:
    got = get_and_maybe_dequant_weights(outermost).tolist()
except AttributeError as error:
    got = f"AttributeError: {str(error).splitlines()[0]} …"
expected = [[1.0] * 4] * 2
report(expected, got, got != expected)
