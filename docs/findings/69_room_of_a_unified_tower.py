"""Gemma 4 Unified declares LoRA on towers and does not start with it: it asks a configuration of another class.

How many tokens an image has is `num_soft_tokens` in its configuration, and `default_output_length` in that of Gemma 4,
whose answer it inherits.
Clause MODEL-6. Releases: 0.33.0.
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

from transformers import AutoConfig
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.distributed import init_distributed_environment, initialize_model_parallel
from vllm.engine.arg_utils import EngineArgs
from vllm.lora import model_manager
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
        load_format="dummy",
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


def report(expected, got, present):
    """Ends the script: 1 where the defect is there, 0 where not."""
    print(f"expected: {expected}\ngot:      {got}\n{'PRESENT' if present else 'absent'} in vLLM {vllm.__version__}")
    sys.exit(int(present))


text = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 4, "head_dim": 16,
        "num_key_value_heads": 4, "vocab_size": 128, "vocab_size_per_layer_input": 128,
        "hidden_size_per_layer_input": 0, "global_head_dim": 16,
        "max_position_embeddings": 64, "layer_types": ["full_attention"], "bos_token_id": 1,
        "eos_token_id": 2, "pad_token_id": 0}  # fmt: skip
vision = {**AutoConfig.for_model("gemma4_unified_vision").to_dict(), "mm_embed_dim": 64, "output_proj_dims": 64,
          "num_soft_tokens": 280}  # fmt: skip
small = AutoConfig.for_model("gemma4_unified", text_config=text, vision_config=vision, image_token_id=127)
small.architectures = ["Gemma4UnifiedForConditionalGeneration"]
small.save_pretrained(f"{folder}/base")
try:
    served(f"{folder}/base")
except AttributeError as error:
    report("the engine starts", f"AttributeError: {error}", present=True)
report("the engine starts", "it starts", present=False)
