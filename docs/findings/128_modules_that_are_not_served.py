"""Where LoRA is restricted to some modules, an adapter of others too is loaded, and the rest of it does nothing.

`lora_target_modules` decides which layers are wrapped; names of an adapter are checked against what the class has.
Nothing is told but, of an adapter of which no tensor is left, a line for debugging.
Clause MODEL-11. Releases: 0.33.0.
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
from transformers import LlamaConfig, LlamaForCausalLM
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
        model=directory, dtype="float32", skip_tokenizer_init=True, enforce_eager=True, max_model_len=64,
        enable_lora=True, lora_target_modules=["o_proj"],
    )  # fmt: skip
    config = options.create_engine_config()
    with set_current_vllm_config(config):
        model = get_model(vllm_config=config)
        worker = LRUCacheWorkerLoRAManager(config, torch.device("cpu"), model.embedding_modules)
        worker.create_lora_manager(model, config)
    return model, worker


def report(expected, got, present):
    """Ends the script: 1 where the defect is there, 0 where not."""
    print(f"expected: {expected}\ngot:      {got}\n{'PRESENT' if present else 'absent'} in vLLM {vllm.__version__}")
    sys.exit(int(present))


small = LlamaConfig(
    hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=4,
    vocab_size=128, max_position_embeddings=64,
)  # fmt: skip
base = LlamaForCausalLM(small)
base.save_pretrained(f"{folder}/base")
trained = LoraConfig(r=1, target_modules=["q_proj", "o_proj"], init_lora_weights=False)
get_peft_model(base, trained).save_pretrained(f"{folder}/adapter")
model, worker = served(f"{folder}/base")
try:
    worker.add_adapter(LoRARequest("one", 1, f"{folder}/adapter"))
    attention = model.model.layers[0].self_attn
    wrapped = {name: hasattr(getattr(attention, name), "lora_b_stacked") for name in ("qkv_proj", "o_proj")}
    got = f"it is loaded, and these layers have it: {[name for name, has in wrapped.items() if has]}"
    present = not wrapped["qkv_proj"]
except ValueError as error:
    got, present = str(error), False
report("an adapter of q_proj and o_proj is refused by name, where LoRA is on o_proj alone", got, present)
