"""An adapter of shared experts on the Transformers backend loads and does nothing: they are moved.

Clause MODEL-1. Releases: 0.33.0.
"""

# ruff: noqa: E402
import os

os.environ |= {"VLLM_TARGET_DEVICE": "cpu", "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_PLUGINS": "", "HF_HUB_OFFLINE": "1"}
os.environ |= {"HUMMING_DISABLE_PARALLEL_BUILD": "1"}  # or importing vLLM starts background builds

import sys
import tempfile

import torch
import vllm.platforms
from vllm.platforms.cpu import CpuPlatform

vllm.platforms._current_platform = CpuPlatform()  # the wheel of a machine without a GPU has none

from peft import LoraConfig, get_peft_model
from transformers import Kolibri1Config, Kolibri1ForCausalLM
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.distributed import init_distributed_environment, initialize_model_parallel
from vllm.engine.arg_utils import EngineArgs
from vllm.lora.request import LoRARequest
from vllm.lora.worker_manager import LRUCacheWorkerLoRAManager
from vllm.model_executor.model_loader import get_model

torch.set_grad_enabled(False)
folder = tempfile.mkdtemp()
with set_current_vllm_config(VllmConfig()):
    init_distributed_environment(1, 0, f"file://{folder}/rendezvous", 0, backend="gloo")
    initialize_model_parallel(1, 1)


def served(directory):
    """The model in a directory, and the worker's manager of its adapters."""
    options = EngineArgs(
        model=directory,
        dtype="float32",
        skip_tokenizer_init=True,
        enforce_eager=True,
        max_model_len=64,
        enable_lora=True,
    )
    config = options.create_engine_config()
    with set_current_vllm_config(config):
        model = get_model(vllm_config=config)
        worker = LRUCacheWorkerLoRAManager(config, torch.device("cpu"), getattr(model, "embedding_modules", {}))
        worker.create_lora_manager(model, config)
    return model, worker


def written_to(worker):
    """The layers whose LoRA B is not zero."""
    layers = worker._adapter_manager.modules.items()
    return [name for name, layer in layers if any(b.any() for b in layer.lora_b_stacked)]


def report(expected, got, present):
    """Ends the script: 1 where the defect is there, 0 where not."""
    print(f"expected: {expected}\ngot:      {got}\n{'PRESENT' if present else 'absent'} in vLLM {vllm.__version__}")
    sys.exit(int(present))


small = Kolibri1Config(
    hidden_size=64, moe_intermediate_size=48, shared_expert_intermediate_size=48, num_hidden_layers=1,
    num_attention_heads=4, num_key_value_heads=4, head_dim=16, num_local_experts=4, num_experts_per_tok=2,
    vocab_size=128, max_position_embeddings=64, layer_types=["full_attention"],
)  # fmt: skip
base = Kolibri1ForCausalLM(small)
config = LoraConfig(r=1, target_modules=r".*shared_experts\.down_proj", init_lora_weights=False)
base.save_pretrained(f"{folder}/base")
get_peft_model(base, config).save_pretrained(f"{folder}/adapter")
model, worker = served(f"{folder}/base")
try:
    worker.add_adapter(LoRARequest("one", 1, f"{folder}/adapter"))
except Exception as error:
    report("an error that names the shared experts", f"{type(error).__name__}: {error}", "down_proj" not in str(error))
used = written_to(worker)
manager = worker._adapter_manager
pairs = manager._registered_adapters[1].loras
pairs["model.layers.0.mlp.experts._shared_experts._layer.shared_experts.down_proj"] = pairs.pop(
    "model.layers.0.mlp.shared_experts.down_proj"
)
manager.deactivate_adapter(1)
manager.activate_adapter(1)
renamed = written_to(worker)
assert renamed or used, "the name is not why"
report(
    "the LoRA B of the shared experts is not zero, or an error that names the shared experts",
    f"LoRA B is not zero in {used}; "
    f"of the same tensors under the name that the module has by now it is not in {renamed}",
    not used,
)
