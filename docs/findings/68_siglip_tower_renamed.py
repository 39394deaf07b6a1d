"""Gemma 3's mapper knows the tower's names of checkpoints and not those of transformers 5: its adapter does nothing.

The engine was started with LoRA on towers, which the class declares.
Clause MODEL-1, MODEL-3. Releases: 0.33.0.
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
from transformers import Gemma3Config, Gemma3ForConditionalGeneration
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.distributed import init_distributed_environment, initialize_model_parallel
from vllm.engine.arg_utils import EngineArgs
from vllm.lora import model_manager
from vllm.lora.request import LoRARequest
from vllm.lora.worker_manager import LRUCacheWorkerLoRAManager
from vllm.model_executor.model_loader import get_model
from vllm.model_executor.models.utils import WeightsMapper

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
        enable_tower_connector_lora=True,
    )
    config = options.create_engine_config()
    with set_current_vllm_config(config):
        model = get_model(vllm_config=config)
        worker = LRUCacheWorkerLoRAManager(config, torch.device("cpu"), model.embedding_modules)
        worker.create_lora_manager(model, config)
    return model, worker


class Room:
    """In place of vLLM's budget of images, which asks for a processor's files; LoRA asks it for this much."""

    mm_max_items_per_prompt, mm_max_toks_per_item = {"image": 1}, {"image": 64}

    def __init__(self, config, registry):
        pass

    def get_encoder_budget(self):
        return 64


model_manager.MultiModalBudget = Room


def written_to(worker):
    """The layers whose LoRA B is not zero."""
    layers = worker._adapter_manager.modules
    return [name for name, layer in layers.items() if any(b.any() for b in layer.lora_b_stacked)]


def report(expected, got, present):
    """Ends the script: 1 where the defect is there, 0 where not."""
    print(f"expected: {expected}\ngot:      {got}\n{'PRESENT' if present else 'absent'} in vLLM {vllm.__version__}")
    sys.exit(int(present))


small = Gemma3Config(
    vision_config={"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 4,
                   "image_size": 28, "patch_size": 14},
    text_config={"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 4,
                 "num_key_value_heads": 4, "head_dim": 16, "vocab_size": 128, "max_position_embeddings": 64,
                 "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
    mm_tokens_per_image=4, image_token_index=127, boi_token_index=126, eoi_token_index=125,
)  # fmt: skip
base = Gemma3ForConditionalGeneration(small)
base.save_pretrained(f"{folder}/base")
tensors = load_file(f"{folder}/base/model.safetensors")  # published files have one more part in the tower's names
longer = {name: re.sub(r"vision_tower\.(?!vision_model)", "vision_tower.vision_model.", name) for name in tensors}
tensors = {longer[name]: one for name, one in tensors.items()}
save_file(tensors, f"{folder}/base/model.safetensors", {"format": "pt"})
config = LoraConfig(r=1, target_modules=r".*vision_tower.*fc1", init_lora_weights=False)
get_peft_model(base, config).save_pretrained(f"{folder}/adapter")
model, worker = served(f"{folder}/base")
try:
    worker.add_adapter(LoRARequest("one", 1, f"{folder}/adapter"))
except Exception as error:
    report("an error that names the tower", f"{type(error).__name__}: {error}", "vision_tower" not in str(error))
used = written_to(worker)
model, worker = served(f"{folder}/base")  # the same with a mapper that knows those names, too
prefixes = {"model.vision_tower.encoder.": "vision_tower.vision_model.encoder."}
model.hf_to_vllm_mapper = WeightsMapper(orig_to_new_prefix=prefixes | model.hf_to_vllm_mapper.orig_to_new_prefix)
worker.add_adapter(LoRARequest("one", 1, f"{folder}/adapter"))
mapped = written_to(worker)
assert mapped or used, "the mapper is not why"
report(
    "the LoRA B of the tower is not zero, or an error that names it",
    f"LoRA B is not zero in {used}; with a mapper that knows its names, it is not in {mapped}",
    not used,
)
