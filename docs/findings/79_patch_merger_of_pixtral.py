"""An adapter of Pixtral's patch merger loads and does nothing.

transformers has the merger inside of the projector, vLLM beside it, and the mapper tells the projector's prefix for
both; and the parts that the class declares for LoRA have no place for it, so that its layer is not wrapped. With both
told it is served. The engine was started with LoRA on towers and connectors.
Clause MODEL-1. Releases: 0.33.0.
"""

# ruff: noqa: E402
import json
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
from transformers import Mistral3Config, Mistral3ForConditionalGeneration
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.distributed import init_distributed_environment, initialize_model_parallel
from vllm.engine.arg_utils import EngineArgs
from vllm.lora import model_manager
from vllm.lora.request import LoRARequest
from vllm.lora.worker_manager import LRUCacheWorkerLoRAManager
from vllm.model_executor.model_loader import get_model
from vllm.model_executor.models.module_mapping import MultiModelKeys
from vllm.model_executor.models.pixtral import PixtralForConditionalGeneration
from vllm.model_executor.models.utils import WeightsMapper

torch.set_grad_enabled(False)
folder = tempfile.mkdtemp()
with set_current_vllm_config(VllmConfig()):
    init_distributed_environment(1, 0, f"file://{folder}/rendezvous", 0, backend="gloo")
    initialize_model_parallel(1, 1)


class Room:
    """In place of vLLM's budget of images, which asks for a processor's files; LoRA asks it for this much."""

    mm_max_items_per_prompt, mm_max_toks_per_item = {"image": 1}, {"image": 64}
    get_encoder_budget = staticmethod(lambda: 64)


model_manager.MultiModalBudget = lambda config, registry: Room()


def written_to():
    """The layers of a new engine whose LoRA B the adapter is in."""
    how = {"skip_tokenizer_init": True, "enforce_eager": True, "config_format": "mistral", "load_format": "dummy"}
    lora = {"enable_lora": True, "enable_tower_connector_lora": True}
    options = EngineArgs(model=f"{folder}/base", dtype="float32", max_model_len=64, **how, **lora)
    config = options.create_engine_config()
    with set_current_vllm_config(config):
        model = get_model(vllm_config=config)
        worker = LRUCacheWorkerLoRAManager(config, torch.device("cpu"), model.embedding_modules)
        worker.create_lora_manager(model, config)
    worker.add_adapter(LoRARequest("one", 1, f"{folder}/adapter"))
    layers = worker._adapter_manager.modules
    return [name for name, layer in layers.items() if any(b.any() for b in layer.lora_b_stacked)]


def report(expected, got, present):
    """Ends the script: 1 where the defect is there, 0 where not."""
    print(f"expected: {expected}\ngot:      {got}\n{'PRESENT' if present else 'absent'} in vLLM {vllm.__version__}")
    sys.exit(int(present))


sizes = {"num_hidden_layers": 1, "num_attention_heads": 4, "hidden_size": 64}
vision = {**sizes, "intermediate_size": 96, "image_size": 28, "patch_size": 14}
text = {**sizes, "intermediate_size": 128, "num_key_value_heads": 4, "head_dim": 16, "vocab_size": 128}
small = Mistral3Config(
    vision_config={"model_type": "pixtral", **vision}, text_config={"model_type": "mistral", **text}
)
more = {"num_channels": 3, "rope_theta": 1e4, "image_token_id": 10, "mm_projector_id": "patch_merge"}
told = {"dim": 64, "hidden_dim": 128, "n_layers": 1, "n_heads": 4, "n_kv_heads": 4, "head_dim": 16, "vocab_size": 128,
        "norm_eps": 1e-5, "rope_theta": 1e4, "max_position_embeddings": 64,
        "vision_encoder": {**vision, **more, "spatial_merge_size": 2}}  # fmt: skip
os.makedirs(f"{folder}/base")
with open(f"{folder}/base/params.json", "w") as file:
    json.dump(told, file)
base = Mistral3ForConditionalGeneration(small)
adapted = get_peft_model(base, LoraConfig(r=1, target_modules=r".*(merging_layer|linear_1)", init_lora_weights=False))
adapted.save_pretrained(f"{folder}/adapter")


got = written_to()
mapper = PixtralForConditionalGeneration.hf_to_vllm_mapper
inside = {"model.multi_modal_projector.patch_merger.": "patch_merger.", **mapper.orig_to_new_prefix}
parts = {"connector": ["vision_language_adapter.", "patch_merger."], "tower_model": "vision_encoder"}
keys = MultiModelKeys.from_string_field(language_model="language_model.", **parts)
told_of_it = WeightsMapper(orig_to_new_prefix=inside, orig_to_new_substr=mapper.orig_to_new_substr)
PixtralForConditionalGeneration.hf_to_vllm_mapper = told_of_it
PixtralForConditionalGeneration.get_mm_mapping = lambda self: keys
mended = written_to()
report(
    "the adapter of linear_1 and merging_layer is in two layers, or is refused by name",
    f"it loads, and is in {got}; with mapper and parts that tell the merger in {mended}",
    len(got) == 1 and "patch_merger.merging_layer" in mended,
)
