"""Of two requests in one step, one with an image and one with a video, the video goes by the adapter of the image.

With LoRA on towers the runner maps the rows of all items of a step once, then encodes a batch for each kind of item,
and each batch begins at the first row of that map. On a CPU that is an error of sizes, on a GPU another request's
adapter. Likewise sounds beside images, and the V2 runner.
Clause MODEL-10. Releases: 0.33.0.
"""

# ruff: noqa: E402
import os

os.environ |= {"VLLM_TARGET_DEVICE": "cpu", "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_PLUGINS": "", "HF_HUB_OFFLINE": "1"}
os.environ |= {"HUMMING_DISABLE_PARALLEL_BUILD": "1"}  # or importing vLLM starts background builds

import sys
import tempfile
from types import SimpleNamespace as Of

import torch
import vllm.platforms
from vllm.platforms.cpu import CpuPlatform

vllm.platforms._current_platform = CpuPlatform()  # the wheel of a machine without a GPU has none

from peft import LoraConfig, get_peft_model
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.distributed import init_distributed_environment, initialize_model_parallel
from vllm.engine.arg_utils import EngineArgs
from vllm.forward_context import set_forward_context
from vllm.lora import model_manager
from vllm.lora.request import LoRARequest
from vllm.lora.worker_manager import LRUCacheWorkerLoRAManager
from vllm.model_executor.model_loader import get_model
from vllm.model_executor.models.qwen2_vl import _create_qwen2vl_field_factory
from vllm.multimodal.inputs import MultiModalKwargsItems, PlaceholderRange
from vllm.v1.worker.gpu_model_runner import GPUModelRunner

torch.set_grad_enabled(False)
folder = tempfile.mkdtemp()
with set_current_vllm_config(VllmConfig()):
    init_distributed_environment(1, 0, f"file://{folder}/rendezvous", 0, backend="gloo")
    initialize_model_parallel(1, 1)
tokens = {"image": 64}  # stands in for what a processor's files say of images
room = Of(mm_max_items_per_prompt=tokens, mm_max_toks_per_item=tokens, get_encoder_budget=lambda: 64)
model_manager.MultiModalBudget = lambda *given: room
small = Qwen2_5_VLConfig(
    vision_config={"depth": 1, "hidden_size": 64, "intermediate_size": 96, "out_hidden_size": 64, "num_heads": 4},
    text_config={"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 4,
                 "num_key_value_heads": 4, "vocab_size": 128, "max_position_embeddings": 64, "bos_token_id": 1,
                 "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e4}},
    image_token_id=127, video_token_id=126, vision_start_token_id=125, vision_end_token_id=124,
)  # fmt: skip
Qwen2_5_VLForConditionalGeneration(small).save_pretrained(f"{folder}/base")
for number in (1, 2):
    base = Qwen2_5_VLForConditionalGeneration.from_pretrained(f"{folder}/base")
    adapter = LoraConfig(r=1, lora_alpha=8, target_modules=r".*visual.*attn\.qkv", init_lora_weights=False)
    get_peft_model(base, adapter).save_pretrained(f"{folder}/{number}")
told = {"dtype": "float32", "skip_tokenizer_init": True, "enforce_eager": True, "max_model_len": 64, "max_loras": 2}
told |= {"enable_lora": True, "enable_tower_connector_lora": True}
config = EngineArgs(f"{folder}/base", **told).create_engine_config()
with set_current_vllm_config(config):
    model = get_model(vllm_config=config)
    worker = LRUCacheWorkerLoRAManager(config, torch.device("cpu"), model.embedding_modules)
    worker.create_lora_manager(model, config)
grid, pixels = torch.tensor([[1, 4, 4]]), torch.randn(16, 3 * 2 * 14 * 14)
given = {"pixel_values": pixels, "image_grid_thw": grid, "pixel_values_videos": pixels, "video_grid_thw": grid}
items = MultiModalKwargsItems.from_hf_inputs(given, _create_qwen2vl_field_factory(2)(given))


class Runner(GPUModelRunner):
    observability_config = encoder_cudagraph_manager = is_multimodal_pruning_enabled = None
    requires_sequential_video_encoding, device, lora_config, lora_manager = False, "cpu", config.lora_config, worker
    model, _cache_encoder_output = model, lambda *given: None

    def __init__(self, requests):
        at, ids = PlaceholderRange(0, 4), list(requests.values())
        of = {kind: Of(data=items[kind][0], identifier=kind, modality=kind, mm_position=at) for kind in requests}
        self.requests = {kind: Of(mm_features=[of[kind]]) for kind in requests}
        places = {kind: place for place, kind in enumerate(requests)}
        asked = {number: LoRARequest(str(number), number, f"{folder}/{number}") for number in ids}
        self.input_batch = Of(req_id_to_index=places, request_lora_mapping=ids, lora_id_to_lora_request=asked)


def encoded(**adapters):
    """The last item of a step whose requests, with an image or a video, have these adapters."""
    step = Of(scheduled_encoder_inputs={kind: [0] for kind in adapters})
    step.ec_manager_metadata = step.free_encoder_mm_hashes = None
    try:
        with set_current_vllm_config(config), set_forward_context(None, config):
            return Runner(adapters)._execute_mm_encoder(step)[-1].tolist()
    except RuntimeError as error:
        return f"RuntimeError: {error}"


right, found = encoded(video=2), encoded(image=1, video=2)
present = isinstance(right, list) and right != encoded(video=1) and found != right
print("expected: the video as in a step of its own")
print(f"got:      {found if isinstance(found, str) else 'other numbers' if present else 'that'}")
print(f"{'PRESENT' if present else 'absent'} in vLLM {vllm.__version__}")
sys.exit(int(present))
