"""A pin that is refused stays half: the adapter, which no slot was free for, cannot be evicted any more.

`pin_adapter` pins an adapter among those that are kept first, and then activates it; where every slot is pinned that
is refused, and the first pin stays. Sooner or later nobody can be added.
Clause LIFE-2. Releases: 0.33.0.
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

from vllm.config import VllmConfig, get_current_vllm_config, set_current_vllm_config
from vllm.config.lora import LoRAConfig
from vllm.distributed import parallel_state
from vllm.lora.lora_model import LoRAModel
from vllm.lora.lora_weights import LoRALayerWeights
from vllm.lora.model_manager import LRUCacheLoRAModelManager
from vllm.model_executor.layers.linear import ReplicatedLinear

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


class Model(torch.nn.Module):
    """The smallest model that vLLM's LoRA manager takes."""

    supports_lora = True
    is_3d_moe_weight = is_non_gated_moe = False
    embedding_modules = {}
    lora_skip_prefixes = []
    packed_modules_mapping = {}
    config = SimpleNamespace(architectures=["Model"])
    lora_manager = None


def manage(model, max_loras=1, max_cpu_loras=2, targets=None):
    """The LRU manager over ``model``; it replaces layers in place."""
    sizes = {"max_lora_rank": 8, "max_loras": max_loras, "max_cpu_loras": max_cpu_loras}
    config = LoRAConfig(**sizes, lora_dtype=torch.float32, target_modules=targets)
    options = {"max_num_seqs": 8, "max_num_batched_tokens": 8, "vocab_size": 32, "lora_config": config}
    device = torch.device("cpu")
    return LRUCacheLoRAModelManager(model=model, device=device, vllm_config=get_current_vllm_config(), **options)


def adapter(adapter_id, name, width, rows, value=1.0):
    """An adapter of rank 1 for the module ``name``: A is ones, B is ``value``."""
    a, b = torch.ones(1, width), torch.full((rows, 1), value)
    return LoRAModel(adapter_id, 1, {name: LoRALayerWeights(name, 1, 1, a, b, 1.0)})


def report(expected, got, present):
    """Ends the script: 1 where the defect is there, 0 where not."""
    print(f"expected: {expected}\ngot:      {got}\n{'PRESENT' if present else 'absent'} in vLLM {vllm.__version__}")
    sys.exit(int(present))


model = Model()
model.add_module("proj", build(ReplicatedLinear, 4, 2))


def left(tried):
    """The adapters that are kept after the first was pinned, the second maybe not, and a third came."""
    manager = manage(model)
    for number in (1, 2):
        manager.add_adapter(adapter(number, "proj", 4, 2))
    manager.pin_adapter(1)
    try:
        if tried:
            manager.pin_adapter(2)
    except RuntimeError as error:
        print(f"pin of 2: {error}")
    try:
        manager._registered_adapters.remove_oldest()  # as its worker does before it adds one
        manager.add_adapter(adapter(3, "proj", 4, 2))
    except RuntimeError as error:
        print(f"add of 3: {error}")
    return set(manager.list_adapters())


plain, got = left(False), left(True)
report(f"{plain}: the pin of 2 was refused, and 3 takes its place", got, plain == {1, 3} and got == {1, 2})
