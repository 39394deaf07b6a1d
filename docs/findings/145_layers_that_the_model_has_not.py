"""An adapter of a larger model of the same type is loaded, and the layers that the model has not vanish.

What is checked of a tensor's name is its last part, such as o_proj; whether there is such a layer nobody asks. That of
a module of another name is refused. Any other wrong prefix of a name goes the same way.
Clause MODEL-9. Releases: 0.33.0.
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
from safetensors.torch import load_file, save_file
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
        enable_lora=True,
    )  # fmt: skip
    config = options.create_engine_config()
    with set_current_vllm_config(config):
        model = get_model(vllm_config=config)
        worker = LRUCacheWorkerLoRAManager(config, torch.device("cpu"), model.embedding_modules)
        worker.create_lora_manager(model, config)
    return worker


def made(layers):
    """A model of so many layers."""
    small = LlamaConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=layers, num_attention_heads=4, num_key_value_heads=4,
        vocab_size=128, max_position_embeddings=64,
    )  # fmt: skip
    return LlamaForCausalLM(small)


def outcome(number, directory):
    """How an adapter is taken: refused, or which layers are served."""
    try:
        worker.add_adapter(LoRARequest(directory, number, directory))
    except ValueError:
        return "refused"
    layers = worker._adapter_manager.modules
    return [name for name, layer in layers.items() if any(b.any() for b in layer.lora_b_stacked)]


def report(expected, got, present):
    """Ends the script: 1 where the defect is there, 0 where not."""
    print(f"expected: {expected}\ngot:      {got}\n{'PRESENT' if present else 'absent'} in vLLM {vllm.__version__}")
    sys.exit(int(present))


made(1).save_pretrained(f"{folder}/base")
larger = get_peft_model(made(2), LoraConfig(r=1, target_modules=["o_proj"], init_lora_weights=False))
for name in ("larger", "other"):
    larger.save_pretrained(f"{folder}/{name}")
file = f"{folder}/other/adapter_model.safetensors"
save_file({key.replace("o_proj", "p_proj"): tensor for key, tensor in load_file(file).items()}, file)
worker = served(f"{folder}/base")
other, got = outcome(1, f"{folder}/other"), outcome(2, f"{folder}/larger")
report(
    "an adapter of two layers is refused by a model of one, as is one of a module that it has not",
    f"the latter is {other}; of the former is served {got}",
    other == "refused" and got != "refused",
)
