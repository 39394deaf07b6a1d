"""An adapter that was pinned is not, once it was loaded again in its place: the next one evicts it.

With `load_inplace` the worker takes the old one out, and its pins with it, and adds the new one without.
Clause LIFE-2. Releases: 0.33.0.
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
        enable_lora=True, max_loras=2,
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
trained = LoraConfig(r=1, target_modules=["q_proj"], init_lora_weights=False)
get_peft_model(base, trained).save_pretrained(f"{folder}/adapter")


def left(in_place):
    """The adapters that are left after the first was pinned, and loaded again or not, and two others came."""
    worker = served(f"{folder}/base")[1]
    worker.add_adapter(LoRARequest("1", 1, f"{folder}/adapter"))
    worker.pin_adapter(1)
    if in_place:
        worker.add_adapter(LoRARequest("1", 1, f"{folder}/adapter", load_inplace=True))
    for number in (2, 3):
        worker.add_adapter(LoRARequest(str(number), number, f"{folder}/adapter"))
    return worker.list_adapters()


plain, got = left(False), left(True)
report(f"adapters {plain}, as of one that was pinned and not loaded again", got, 1 in plain and 1 not in got)
