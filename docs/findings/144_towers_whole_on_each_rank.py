"""A tower that each rank has whole, for some of the images, asks the other ranks for a part of its adapter.

With mm_encoder_tp_mode="data" images are dealt out to ranks; with fully_sharded_loras the column layers gather over
all ranks what each has whole, of other images. On a CPU that is an error of sizes. An instance of finding 15.
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
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.distributed import init_distributed_environment, initialize_model_parallel, parallel_state
from vllm.engine.arg_utils import EngineArgs
from vllm.lora import model_manager
from vllm.lora.layers import LoRAMapping, LoRAMappingType
from vllm.lora.request import LoRARequest
from vllm.lora.worker_manager import LRUCacheWorkerLoRAManager
from vllm.model_executor.model_loader import get_model

torch.set_grad_enabled(False)


class Group:
    """Stands in for rank 0 of two, the other of which is handed the same."""

    world_size, rank_in_group, ranks = 2, 0, list(range(2))

    def all_gather(self, tensor, dim=-1):
        return torch.cat([tensor, tensor], dim)


folder = tempfile.mkdtemp()
with set_current_vllm_config(VllmConfig()):
    init_distributed_environment(1, 0, f"file://{folder}/rendezvous", 0, backend="gloo")
    initialize_model_parallel(1, 1)


def served(directory, **how):
    """The model in a directory, and the worker's manager of its adapters."""
    told = {"dtype": "float32", "skip_tokenizer_init": True, "enforce_eager": True, "max_model_len": 64, **how}
    config = EngineArgs(directory, enable_lora=True, enable_tower_connector_lora=True, **told).create_engine_config()
    parallel_state._TP = Group()
    config.parallel_config.tensor_parallel_size = config.parallel_config.world_size = 2
    with set_current_vllm_config(config):
        model = get_model(vllm_config=config)
        worker = LRUCacheWorkerLoRAManager(config, torch.device("cpu"), model.embedding_modules)
        worker.create_lora_manager(model, config)
    return model, worker


tokens = {"image": 64}  # stands in for what a processor's files say of images
room = SimpleNamespace(mm_max_items_per_prompt=tokens, mm_max_toks_per_item=tokens, get_encoder_budget=lambda: 64)
model_manager.MultiModalBudget = lambda *given: room


def outcome(**how):
    """What the projection of queries, keys and values of an image comes to with the adapter."""
    model, worker = served(f"{folder}/base", **how)
    worker.add_adapter(LoRARequest("one", 1, f"{folder}/adapter"))
    worker.set_active_adapters(set(), LoRAMapping((1,) * 8, (1,), type=LoRAMappingType.TOWER))
    try:
        model.visual.blocks[0].attn.qkv(torch.ones(8, 64))
    except RuntimeError as error:
        return f"RuntimeError: {error}"
    return "served"


small = Qwen2_5_VLConfig(
    vision_config={"depth": 1, "hidden_size": 64, "intermediate_size": 96, "out_hidden_size": 64, "num_heads": 4,
                   "fullatt_block_indexes": [0]},
    text_config={"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 4,
                 "num_key_value_heads": 4, "vocab_size": 128, "max_position_embeddings": 64, "bos_token_id": 1,
                 "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e4}},
    image_token_id=127, video_token_id=126, vision_start_token_id=125, vision_end_token_id=124,
)  # fmt: skip
base = Qwen2_5_VLForConditionalGeneration(small)
base.save_pretrained(f"{folder}/base")
adapter = LoraConfig(r=1, target_modules=r".*visual.*attn\.qkv", init_lora_weights=False)
get_peft_model(base, adapter).save_pretrained(f"{folder}/adapter")
ways = [{"fully_sharded_loras": True}, {"mm_encoder_tp_mode": "data"}]
apart, together = [outcome(**way) for way in ways], outcome(**ways[0], **ways[1])
present = apart == ["served", "served"] and together != "served"
print(f"expected: served with each of the two options, and with both\ngot:      {', '.join(apart)}; {together}")
print(f"{'PRESENT' if present else 'absent'} in vLLM {vllm.__version__}")
sys.exit(int(present))
