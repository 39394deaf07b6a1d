"""An adapter of Llama 4's tower ends in an AssertionError where each rank has the tower whole.

With mm_encoder_tp_mode="data" the class builds `qkv_proj` as a replicated layer of q, k and v together, and still
declares it packed of `q_proj`, `k_proj` and `v_proj`: LoRA hands three adapters to a layer that takes one. On one
rank as on several. With the layer that the class has otherwise the adapter is loaded.
Clause MODEL-7. Releases: 0.33.0.
"""

# ruff: noqa: E402
import os

os.environ |= {"VLLM_TARGET_DEVICE": "cpu", "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_PLUGINS": "", "HF_HUB_OFFLINE": "1"}
os.environ |= {"HUMMING_DISABLE_PARALLEL_BUILD": "1"}  # or importing vLLM starts background builds

import sys
import tempfile
from types import SimpleNamespace

import torch
import vllm.platforms
from vllm.platforms.cpu import CpuPlatform

vllm.platforms._current_platform = CpuPlatform()  # the wheel of a machine without a GPU has none

from peft import LoraConfig, get_peft_model
from transformers import Llama4Config, Llama4ForConditionalGeneration
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.distributed import init_distributed_environment, initialize_model_parallel
from vllm.engine.arg_utils import EngineArgs
from vllm.lora import model_manager
from vllm.lora.request import LoRARequest
from vllm.lora.worker_manager import LRUCacheWorkerLoRAManager
from vllm.model_executor.model_loader import get_model
from vllm.model_executor.models import mllama4

torch.set_grad_enabled(False)


folder = tempfile.mkdtemp()
with set_current_vllm_config(VllmConfig()):
    init_distributed_environment(1, 0, f"file://{folder}/rendezvous", 0, backend="gloo")
    initialize_model_parallel(1, 1)


def served(directory, **how):
    """The model in a directory, and the worker's manager of its adapters."""
    told = {"dtype": "float32", "skip_tokenizer_init": True, "enforce_eager": True, "max_model_len": 64, **how}
    config = EngineArgs(directory, enable_lora=True, enable_tower_connector_lora=True, **told).create_engine_config()
    with set_current_vllm_config(config):
        model = get_model(vllm_config=config)
        worker = LRUCacheWorkerLoRAManager(config, torch.device("cpu"), model.embedding_modules)
        worker.create_lora_manager(model, config)
    return model, worker


tokens = {"image": 64}  # stands in for what a processor's files say of images
room = SimpleNamespace(mm_max_items_per_prompt=tokens, mm_max_toks_per_item=tokens, get_encoder_budget=lambda: 64)
model_manager.MultiModalBudget = lambda *given: room


def outcome(**how):
    """How the adapter is loaded."""
    _, worker = served(f"{folder}/base", **how)
    try:
        worker.add_adapter(LoRARequest("one", 1, f"{folder}/adapter"))
    except AssertionError as error:
        return f"AssertionError: {error}"
    return "loaded"


same = {"num_hidden_layers": 1, "num_attention_heads": 4, "hidden_size": 64, "intermediate_size": 128}
small = Llama4Config(
    vision_config={**same, "intermediate_size": 256, "image_size": 56, "patch_size": 14, "vision_output_dim": 64,
                   "projector_input_dim": 64, "projector_output_dim": 64},
    text_config={**same, "num_key_value_heads": 4, "head_dim": 16, "vocab_size": 128, "num_local_experts": 2,
                 "intermediate_size_mlp": 128, "max_position_embeddings": 64},
)  # fmt: skip
base = Llama4ForConditionalGeneration(small)
base.save_pretrained(f"{folder}/base")
adapter = LoraConfig(r=1, target_modules=r".*vision_model.*self_attn\.q_proj", init_lora_weights=False)
get_peft_model(base, adapter).save_pretrained(f"{folder}/adapter")
cut, whole = outcome(), outcome(mm_encoder_tp_mode="data")
mllama4.is_vit_use_data_parallel = lambda: False
mended = outcome(mm_encoder_tp_mode="data")
present = (cut, mended) == ("loaded", "loaded") and whole != "loaded"
print("expected: loaded, whether the tower is cut for ranks or whole")
print(f"got:      {cut} where it is cut; {whole} where it is whole; {mended} with the layers of the former")
print(f"{'PRESENT' if present else 'absent'} in vLLM {vllm.__version__}")
sys.exit(int(present))
