"""A tower's patch embedding is a convolution, which LoRA does not wrap, and called `proj`, as layers are that it does.

So an adapter of it passes the check of names, loads, and does nothing. The engine was started with LoRA on towers,
which the class declares.
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
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.distributed import init_distributed_environment, initialize_model_parallel
from vllm.engine.arg_utils import EngineArgs
from vllm.lora import model_manager
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


small = Qwen2_5_VLConfig(
    vision_config={"depth": 1, "hidden_size": 64, "intermediate_size": 96, "out_hidden_size": 64, "num_heads": 4,
                   "patch_size": 14, "fullatt_block_indexes": [0]},
    text_config={"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 4,
                 "num_key_value_heads": 4, "vocab_size": 128, "max_position_embeddings": 64, "bos_token_id": 1,
                 "eos_token_id": 2, "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3]}},
    image_token_id=127, video_token_id=126, vision_start_token_id=125, vision_end_token_id=124,
)  # fmt: skip
base = Qwen2_5_VLForConditionalGeneration(small)
base.save_pretrained(f"{folder}/base")
config = LoraConfig(r=1, target_modules=["patch_embed.proj"], init_lora_weights=False)
get_peft_model(base, config).save_pretrained(f"{folder}/adapter")
model, worker = served(f"{folder}/base")
try:
    worker.add_adapter(LoRARequest("one", 1, f"{folder}/adapter"))
except Exception as error:
    report("an error that names the patch embedding", f"{type(error).__name__}: {error}", "proj" not in str(error))
used = written_to(worker)
names = "patch_embed.proj", "blocks.0.attn.proj"
kinds = {name: type(model.get_submodule(f"visual.{name}")).__name__ for name in names}
report(
    "the LoRA B of the patch embedding is not zero, or an error that names it",
    f"LoRA B is not zero in {used}; the modules of that name are {kinds}",
    not used,
)
