"""SGLang's own LoRA layers, memory pool and torch backend on one layer, without a server: what the scripts share."""

# ruff: noqa: E402
import logging
import os
import sys
import warnings
from types import SimpleNamespace

os.environ |= {"HF_HUB_OFFLINE": "1"}
logging.disable(logging.ERROR)
warnings.simplefilter("ignore")

import torch
from torch.overrides import TorchFunctionMode


class Unpinned(TorchFunctionMode):
    """Pinned memory is ordinary memory, as there is none on a machine without a GPU (finding 80)."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.Tensor.pin_memory:
            return args[0]
        return func(*args, **{name: value for name, value in (kwargs or {}).items() if name != "pin_memory"})


Unpinned().__enter__()
torch.set_grad_enabled(False)
torch._dynamo.config.disable = True

from sglang.srt import runtime_context
from sglang.srt.configs.load_config import LoadConfig
from sglang.srt.lora.backend.torch_backend import TorchNativeLoRABackend
from sglang.srt.lora.layers import get_lora_layer
from sglang.srt.lora.lora import LoRAAdapter
from sglang.srt.lora.lora_config import LoRAConfig
from sglang.srt.lora.lora_manager import LoRAManager
from sglang.srt.lora.lora_registry import LoRARef
from sglang.srt.lora.mem_pool import LoRAMemoryPool
from sglang.srt.lora.utils import LoRAType
from sglang.srt.model_executor.forward_batch_info import ForwardMode
from sglang.version import __version__

runtime_context.get_context().override_server_args(lora_backend="torch_native").install()


class Group:
    """Stands in for the tensor-parallel group; the other ranks hold what this one holds."""

    def __init__(self, size, rank):
        self.world_size, self.rank_in_group, self.issued, self.cpu_group = size, rank, [], None

    def all_gather(self, tensor, dim=-1):
        self.issued.append("all_gather")
        return torch.cat([tensor] * self.world_size, dim)

    def all_reduce(self, tensor):
        self.issued.append("all_reduce")
        return tensor * self.world_size


def on_rank(rank, size):
    """This process is rank ``rank`` of ``size``."""
    group = Group(size, rank)
    known = {}
    for prefix in ("tp", "attn_tp", "moe_tp"):
        known |= {f"{prefix}_size": size, f"{prefix}_rank": rank, f"{prefix}_group": group}
    known |= {"moe_ep_size": 1, "moe_ep_rank": 0, "pp_group": SimpleNamespace(is_last_rank=True)}
    runtime_context.get_parallel()._overrides.update(known)
    return group


on_rank(0, 1)


class Model(torch.nn.Module):
    """A model of one layer, called ``name``, with ``sizes`` inputs and outputs."""

    def __init__(self, name, layer, sizes, **config):
        super().__init__()
        owner = self
        for part in name.split(".")[:-1]:
            owner.add_module(part, torch.nn.Module())
            owner = owner.get_submodule(part)
        owner.add_module(name.split(".")[-1], layer)
        layers = int(name.startswith("layers."))
        self.config = SimpleNamespace(**{"num_hidden_layers": layers, "hidden_size": 1, "vocab_size": 1, **config})
        self.sizes = sizes

    def get_hidden_dim(self, module_name, layer_idx):
        return self.sizes


class Served:
    """A layer with SGLang's LoRA layer, memory pool and torch backend; slot 0 is that of tokens without an adapter."""

    def __init__(self, name, layer, sizes, slots=1, max_rank=4, **config):
        self.backend = TorchNativeLoRABackend(slots + 1, torch.device("cpu"))
        self.lora = get_lora_layer(layer, self.backend)
        self.model, last, self.held = Model(name, self.lora, sizes, **config), name.split(".")[-1], {}
        self.pool = LoRAMemoryPool(
            self.model.config, slots + 1, torch.float32, max_rank, {last}, self.model, "lru", lora_added_tokens_size=0
        )
        kinds = LoRAType.LORA_A, LoRAType.LORA_B
        self.layers, self.roles = [], (None, None)
        if name.startswith("layers."):
            self.layers = [{name: self.lora}]
            self.lora.set_lora_info(*(self.pool.get_tensor(last, 0, kind) for kind in kinds))
        else:
            head = last == "lm_head"
            self.roles = (None, self.lora) if head else (self.lora, None)
            buffers = [self.pool.get_embedding_tensor(last, kind) for kind in kinds]
            self.lora.set_lora_info(*([] if head else [None]), *buffers)
        self.pool.load_lora_weight_to_buffer(None, 0, None, self.layers, *self.roles)

    def load(self, tensors, slot=1, **config):
        """An adapter of these checkpoint tensors, ``NAME.lora_A`` and so on; ``config`` is its PEFT config."""
        targets = sorted({name.split(".lora_")[0].split(".")[-1] for name in tensors})
        config = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": targets, **config}
        made = LoRAConfig.from_dict(config)
        self.held[slot] = LoRAAdapter("a", made, self.model.config, None, self.backend, base_model=self.model)
        self.held[slot].initialize_weights_from_tensors(tensors)
        self.pool.load_lora_weight_to_buffer("a", slot, self.held[slot], self.layers, *self.roles)

    def run(self, x, slots, *extra):
        """One forward with each token's slot."""
        ranks = [
            self.held[slot].config.r if slot in self.held else 0 for slot in range(len(self.pool.buffer_id_to_uid))
        ]
        scalings = [self.held[slot].scaling if slot in self.held else 0.0 for slot in range(len(ranks))]
        batch = SimpleNamespace(forward_mode=ForwardMode.DECODE, batch_size=len(slots))
        self.backend.prepare_lora_batch(batch, slots, ranks, scalings, False)
        return self.lora(x, *extra)


class Managed:
    """A model with SGLang's `LoRAManager`, which has one slot for an adapter and one for tokens without."""

    def __init__(self, model, targets, max_rank=4):
        self.model = model
        self.manager = LoRAManager(
            base_model=model,
            base_hf_config=model.config,
            max_loras_per_batch=2,
            load_config=LoadConfig(),
            dtype=torch.float32,
            server_args=runtime_context.get_server_args(),
            lora_backend="torch_native",
            max_lora_rank=max_rank,
            target_modules=targets,
        )

    def add(self, name, tensors, **config):
        """Registers an adapter; hands back what SGLang says was wrong with it."""
        targets = sorted({one.split(".lora_")[0].split(".")[-1] for one in tensors})
        config = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": targets, **config}
        ref = LoRARef(lora_id=name, lora_name=name, lora_path="in memory", pinned=False)
        return self.manager.load_lora_adapter_from_tensors(ref, tensors, config).error_message

    def serve(self, *names):
        """A batch of one token for each adapter, None for none: all of them are in the pool then."""
        self.manager.fetch_new_loras(set(names))
        batch = SimpleNamespace(forward_mode=ForwardMode.DECODE, batch_size=len(names), lora_ids=list(names))
        self.manager.prepare_lora_batch(batch)

    def present(self):
        """The adapters in the pool."""
        return sorted(filter(None, self.manager.memory_pool.uid_to_buffer_id))


def pair(name, lora_a, lora_b):
    """The two tensors of a checkpoint's module."""
    prefix = f"base_model.model.model.{name}"
    return {f"{prefix}.lora_A.weight": lora_a, f"{prefix}.lora_B.weight": lora_b}


def filled(layer, value=0.0):
    """The layer with all of its weights ``value``."""
    layer.weight.data.fill_(value)
    return layer


def attempt(what):
    """What it gives, or the error it ends in."""
    try:
        return what()
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def report(expected, got):
    """Ends the script: 1 where the defect is there, 0 where not."""
    present = got != expected
    print(f"expected: {expected}\ngot:      {got}\n{'PRESENT' if present else 'absent'} in SGLang {__version__}")
    sys.exit(int(present))
