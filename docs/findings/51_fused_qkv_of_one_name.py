"""An adapter of GPTBigCode's c_attn, which vLLM serves through its Transformers backend, loads and does nothing.

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
from transformers import GPTBigCodeConfig, GPTBigCodeForCausalLM
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
        worker = LRUCacheWorkerLoRAManager(config, torch.device("cpu"), model.embedding_modules)
        worker.create_lora_manager(model, config)
    return model, worker


def report(expected, got, present):
    """Ends the script: 1 where the defect is there, 0 where not."""
    print(f"expected: {expected}\ngot:      {got}\n{'PRESENT' if present else 'absent'} in vLLM {vllm.__version__}")
    sys.exit(int(present))


small = GPTBigCodeConfig(
    n_embd=64, n_inner=128, n_layer=1, n_head=4, n_positions=64, vocab_size=128, bos_token_id=1, eos_token_id=2
)
base = GPTBigCodeForCausalLM(small)
base.save_pretrained(f"{folder}/base")
get_peft_model(base, LoraConfig(r=1, target_modules=["c_attn"], init_lora_weights=False)).save_pretrained(
    f"{folder}/adapter"
)
model, worker = served(f"{folder}/base")
try:
    worker.add_adapter(LoRARequest("one", 1, f"{folder}/adapter"))
except Exception as error:
    report("an error that names c_attn", f"{type(error).__name__}: {error}", "c_attn" not in str(error))
layers = worker._adapter_manager.modules
used = [name for name, layer in layers.items() if any(b.any() for b in layer.lora_b_stacked)]
report(
    "c_attn's LoRA B is not zero",
    f"LoRA B is not zero in {used}",
    not used,
)
