"""An adapter of the forget gate of GLM-5-Next's linear attention, under the name of transformers 5, does nothing.

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
from safetensors.torch import load_file, save_file
from transformers import Glm5NextConfig, Glm5NextForConditionalGeneration
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.distributed import init_distributed_environment, initialize_model_parallel
from vllm.engine.arg_utils import EngineArgs
from vllm.lora.request import LoRARequest
from vllm.lora.worker_manager import LRUCacheWorkerLoRAManager
from vllm.model_executor.model_loader import get_model

torch.set_grad_enabled(False)
torch.cpu._is_amx_tile_supported = lambda: False  # the operators for AMX are not in the wheel
choose = (
    CpuPlatform.get_attn_backend_cls
)  # a CPU has no sparse attention; dense one is built in its place, and not run
CpuPlatform.get_attn_backend_cls = classmethod(
    lambda cls, selected, attn_selector_config, **others: choose(
        selected, attn_selector_config=attn_selector_config._replace(use_sparse=False), **others
    )
)
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
        enable_prefix_caching=False,
    )
    config = options.create_engine_config()
    with set_current_vllm_config(config):
        model = get_model(vllm_config=config)
        worker = LRUCacheWorkerLoRAManager(config, torch.device("cpu"), getattr(model, "embedding_modules", {}))
        worker.create_lora_manager(model, config)
    return model, worker


def written_to(worker):
    """The layers whose LoRA B is not zero."""
    layers = worker._adapter_manager.modules.items()
    return [name for name, layer in layers if any(b.any() for b in layer.lora_b_stacked)]


def report(expected, got, present):
    """Ends the script: 1 where the defect is there, 0 where not."""
    print(f"expected: {expected}\ngot:      {got}\n{'PRESENT' if present else 'absent'} in vLLM {vllm.__version__}")
    sys.exit(int(present))


small = Glm5NextConfig(
    vision_config={"depth": 1, "hidden_size": 64, "image_size": 28, "intermediate_size": 96, "num_heads": 4,
                   "out_hidden_size": 64, "projection_intermediate_size": 96},
    text_config={"hidden_size": 64, "intermediate_size": 128, "moe_intermediate_size": 48, "num_hidden_layers": 2,
                 "num_attention_heads": 4, "num_key_value_heads": 4, "linear_head_dim": 16, "linear_num_heads": 4,
                 "layer_types": ["linear_attention", "indexed_attention"], "mlp_layer_types": ["dense", "dense"],
                 "indexer_types": ["full", "full"],
                 "n_routed_experts": 4, "num_experts_per_tok": 2, "kv_lora_rank": 32, "q_lora_rank": 24,
                 "qk_head_dim": 16, "qk_nope_head_dim": 16, "v_head_dim": 16, "index_head_dim": 16,
                 "index_n_heads": 4, "index_topk": 8, "index_kpool": 4, "indexer_rope_interleave": True, "mhc": True,
                 "mla_use_nope": True, "vocab_size": 128, "max_position_embeddings": 256, "pad_token_id": 121},
    image_token_id=127, video_token_id=126, image_start_token_id=125, image_end_token_id=124,
    video_start_token_id=123, video_end_token_id=122,
)  # fmt: skip
base = Glm5NextForConditionalGeneration(small)
config = LoraConfig(r=1, target_modules=["f_b_proj"], init_lora_weights=False)
base.save_pretrained(f"{folder}/base")
get_peft_model(base, config).save_pretrained(f"{folder}/adapter")
model, worker = served(f"{folder}/base")
try:
    worker.add_adapter(LoRARequest("one", 1, f"{folder}/adapter"))
except Exception as error:
    report("an error that names the forget gate", f"{type(error).__name__}: {error}", "f_b_proj" not in str(error))
used = written_to(worker)
tensors = load_file(f"{folder}/adapter/adapter_model.safetensors")  # the same under the name that vLLM's module has
tensors = {name.replace("forget_gate.f_b_proj", "f_b_proj"): one for name, one in tensors.items()}
save_file(tensors, f"{folder}/adapter/adapter_model.safetensors")
worker.add_adapter(LoRARequest("two", 2, f"{folder}/adapter"))
renamed = written_to(worker)
assert renamed or used, "the name is not why"
report(
    "the LoRA B of the forget gate is not zero, or an error that names the forget gate",
    f"LoRA B is not zero in {used}; "
    f"of the same file with f_b_proj in place of forget_gate.f_b_proj it is not in {renamed}",
    not used,
)
