"""LLaVA says that its tower has as many rows as an image has tokens; CLIP has one more for each, its class's.

With LoRA on towers rows are mapped to adapters by that number: an image is encoded in rows of which the last has none,
and of each further image one more is the adapter's of the image before. On a CPU that is an error of sizes. LLaVA-NeXT
counts it, LLaVA-NeXT-Video does not.
Clause MODEL-10. Releases: 0.33.0.
"""

# ruff: noqa: E402
import os

os.environ |= {"VLLM_TARGET_DEVICE": "cpu", "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_PLUGINS": "", "HF_HUB_OFFLINE": "1"}
os.environ |= {"HUMMING_DISABLE_PARALLEL_BUILD": "1"}  # or importing vLLM starts background builds

import re
import sys
import tempfile
from types import SimpleNamespace

import torch
import vllm.platforms
from vllm.platforms.cpu import CpuPlatform

vllm.platforms._current_platform = CpuPlatform()  # the wheel of a machine without a GPU has none

from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.distributed import init_distributed_environment, initialize_model_parallel
from vllm.engine.arg_utils import EngineArgs
from vllm.forward_context import set_forward_context
from vllm.lora import model_manager
from vllm.lora.layers import LoRAMapping, LoRAMappingType
from vllm.lora.request import LoRARequest
from vllm.lora.worker_manager import LRUCacheWorkerLoRAManager
from vllm.model_executor.model_loader import get_model

torch.set_grad_enabled(False)
folder = tempfile.mkdtemp()
with set_current_vllm_config(VllmConfig()):
    init_distributed_environment(1, 0, f"file://{folder}/rendezvous", 0, backend="gloo")
    initialize_model_parallel(1, 1)
tokens = {"image": 64}  # stands in for what a processor's files say of images
room = SimpleNamespace(mm_max_items_per_prompt=tokens, mm_max_toks_per_item=tokens, get_encoder_budget=lambda: 64)
model_manager.MultiModalBudget = lambda *given: room

small = LlavaConfig(
    vision_config=CLIPVisionConfig(hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
                                   image_size=28, patch_size=14, projection_dim=64, hidden_act="gelu"),
    text_config=LlamaConfig(hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=4,
                            vocab_size=128, max_position_embeddings=64),
    image_token_index=127,
)  # fmt: skip
base = LlavaForConditionalGeneration(small)
base.save_pretrained(f"{folder}/base")
tensors = load_file(f"{folder}/base/model.safetensors")  # published files have one more part in the tower's names
tensors = {re.sub(r"vision_tower\.(?!vision_model)", "vision_tower.vision_model.", name): one
           for name, one in tensors.items()}  # fmt: skip
save_file(tensors, f"{folder}/base/model.safetensors", {"format": "pt"})
adapter = LoraConfig(r=1, target_modules=["multi_modal_projector.linear_1"], init_lora_weights=False)
get_peft_model(base, adapter).save_pretrained(f"{folder}/adapter")
told = {"dtype": "float32", "skip_tokenizer_init": True, "enforce_eager": True, "max_model_len": 64}
told |= {"enable_lora": True, "enable_tower_connector_lora": True}
config = EngineArgs(f"{folder}/base", **told).create_engine_config()
with set_current_vllm_config(config):
    model = get_model(vllm_config=config)
    worker = LRUCacheWorkerLoRAManager(config, torch.device("cpu"), model.embedding_modules)
    worker.create_lora_manager(model, config)
worker.add_adapter(LoRARequest("one", 1, f"{folder}/adapter"))
entered = []
model.vision_tower.vision_model.encoder.layers[0].register_forward_pre_hook(
    lambda module, args, named: entered.append((args[0] if args else named["hidden_states"]).shape[:-1].numel()),
    with_kwargs=True,
)


def outcome(beside):
    """How an image of four tokens is encoded, where rows are mapped as the class says, and so many beside these."""
    tower, connector = model.get_mm_lora_token_counts(modality="image", mm_kwargs=None, num_mm_embeds=4)
    for part, rows in (LoRAMappingType.TOWER, tower + beside), (LoRAMappingType.CONNECTOR, connector):
        worker.set_active_adapters(set(), LoRAMapping((1,) * rows, (1,), True, part))
    try:
        with set_current_vllm_config(config), set_forward_context(None, config):
            return tower, f"{len(model.embed_multimodal(pixel_values=torch.ones(1, 3, 28, 28))[0])} tokens"
    except RuntimeError as error:
        return tower, f"RuntimeError: {error}"


(said, found), (_, mended) = outcome(0), outcome(1)
present = mended == "4 tokens" and said != entered[-1]
print(
    f"expected: as many rows as enter the tower, {entered[-1]}, which is encoded: {mended}\ngot:      {said}: {found}"
)
print(f"{'PRESENT' if present else 'absent'} in vLLM {vllm.__version__}")
sys.exit(int(present))
