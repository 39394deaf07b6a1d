"""Ernie 4.5 VL declares LoRA and does not start with it.

The warm-up's dummy adapter has a single pair of tensors for its experts, which are called `text_experts` and
`vision_experts`; vLLM's LoRA layer of experts wants a pair for each projection, and the adapter is refused.
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

from transformers import Ernie4_5_VLMoeConfig, Ernie4_5_VLMoeForConditionalGeneration
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
        load_format="dummy",
        dtype="float32",
        skip_tokenizer_init=True,
        enforce_eager=True,
        max_model_len=64,
        enable_lora=True,
    )
    config = options.create_engine_config()
    with set_current_vllm_config(config):
        model = get_model(vllm_config=config)
        worker = LRUCacheWorkerLoRAManager(config, torch.device("cpu"), model.embedding_modules)
        worker.create_lora_manager(model, config)
    return model, worker


def report(expected, got, present):
    """Ends the script: 1 where the defect is there, 0 where not."""
    print(f"expected: {expected}\ngot:      {got}\n{'PRESENT' if present else 'absent'} in vLLM {vllm.__version__}")
    sys.exit(int(present))


text = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 128,
    "num_key_value_heads": 2, "mlp_layer_types": ["dense", "sparse"], "max_position_embeddings": 128,
    "moe_num_experts": 4, "moe_k": 2, "moe_num_shared_experts": 1, "moe_intermediate_size": [32, 32],
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [3, 3, 2]},
}  # fmt: skip
published = {  # as those files are, which have no configuration of the language model inside
    **text, "hidden_act": "silu", "rms_norm_eps": 1e-5, "freq_allocation": 2, "moe_num_experts": [4, 4],
    "moe_layer_start_index": [1, 1], "moe_layer_end_index": [1, 1], "pixel_hidden_size": 64, "spatial_conv_size": 2,
    "temporal_conv_size": 2, "use_temporal_conv": True, "im_patch_id": 100, "moe_layer_interval": 1,
}  # fmt: skip
vision = {"hidden_size": 64, "embed_dim": 64, "depth": 0, "num_heads": 4, "mlp_ratio": 2}
base = Ernie4_5_VLMoeForConditionalGeneration(Ernie4_5_VLMoeConfig(text_config=text, vision_config=vision))
base.config.update(published | {"architectures": ["Ernie4_5_VLMoeForConditionalGeneration"]})
base.config.save_pretrained(f"{folder}/base")
model, worker = served(f"{folder}/base")
dummy = LoRARequest("dummy", 1, "dummy")
try:
    worker.add_dummy_lora(dummy, 8)
    worker.add_adapter(dummy)
    said = "it starts"
except ValueError as error:
    said = str(error)
report("the engine starts, as its worker's warm-up adds a dummy adapter", said, "fused 3D MoE weights" in said)
