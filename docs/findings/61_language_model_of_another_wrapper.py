"""An adapter of QianfanOCR's language model, under the names of transformers 5, loads and does nothing.

Clause MODEL-1. Releases: 0.33.0.
"""

# ruff: noqa: E402
import os

os.environ |= {"VLLM_TARGET_DEVICE": "cpu", "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_PLUGINS": "", "HF_HUB_OFFLINE": "1"}
os.environ |= {"HUMMING_DISABLE_PARALLEL_BUILD": "1"}  # or importing vLLM starts background builds

import re
import sys
import tempfile

import torch
import vllm.platforms
from vllm.platforms.cpu import CpuPlatform

vllm.platforms._current_platform = CpuPlatform()  # the wheel of a machine without a GPU has none

from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import QianfanOCRConfig, QianfanOCRForConditionalGeneration
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


def report(expected, got, present):
    """Ends the script: 1 where the defect is there, 0 where not."""
    print(f"expected: {expected}\ngot:      {got}\n{'PRESENT' if present else 'absent'} in vLLM {vllm.__version__}")
    sys.exit(int(present))


small = QianfanOCRConfig(
    vision_config={"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 96},
    text_config={"model_type": "qwen3", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1,
                 "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 16, "vocab_size": 128,
                 "max_position_embeddings": 64},
    image_token_id=127,
)  # fmt: skip
tiles = {"dynamic_image_size": True, "use_thumbnail": True, "max_dynamic_patch": 12, "min_dynamic_patch": 1}
for name, value in {"force_image_size": 28, "ps_version": "v2", "select_layer": -1, **tiles}.items():
    setattr(small, name, value)  # which published files have
base = QianfanOCRForConditionalGeneration(small)
config = LoraConfig(r=1, target_modules=r".*language_model.*q_proj", init_lora_weights=False)
base.save_pretrained(f"{folder}/base")
tensors = load_file(f"{folder}/base/model.safetensors")  # published files have one part less in these names
tensors = {
    re.sub("^language_model.model.encoder.", "language_model.model.", name): one for name, one in tensors.items()
}
save_file(tensors, f"{folder}/base/model.safetensors", {"format": "pt"})
get_peft_model(base, config).save_pretrained(f"{folder}/adapter")
model, worker = served(f"{folder}/base")
try:
    worker.add_adapter(LoRARequest("one", 1, f"{folder}/adapter"))
except Exception as error:
    report("an error that names the language model", f"{type(error).__name__}: {error}", "q_proj" not in str(error))
layers = worker._adapter_manager.modules
used = [name for name, layer in layers.items() if any(b.any() for b in layer.lora_b_stacked)]
report(
    "the LoRA B of the language model is not zero, or an error that names the language model",
    f"LoRA B is not zero in {used}",
    not used,
)
