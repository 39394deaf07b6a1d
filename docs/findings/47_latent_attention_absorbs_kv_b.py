"""An adapter of latent attention's kv_b_proj does not reach the copies of its weight that decoding reads.

Clause MODEL-2. Releases: 0.33.0.
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
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.distributed import init_distributed_environment, initialize_model_parallel
from vllm.engine.arg_utils import EngineArgs
from vllm.lora.request import LoRARequest
from vllm.lora.worker_manager import LRUCacheWorkerLoRAManager
from vllm.model_executor.model_loader import get_model

torch.set_grad_enabled(False)
torch.cpu._is_amx_tile_supported = lambda: False  # the operators for AMX are not in the wheel
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


small = DeepseekV3Config(
    hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=4,
    q_lora_rank=16, kv_lora_rank=16, qk_rope_head_dim=8, qk_nope_head_dim=16, v_head_dim=16, first_k_dense_replace=1,
    vocab_size=128, max_position_embeddings=64, bos_token_id=1, eos_token_id=2, topk_method="noaux_tc",
)  # fmt: skip
base = DeepseekV3ForCausalLM(small)
base.save_pretrained(f"{folder}/base")
adapted = get_peft_model(base, LoraConfig(r=1, target_modules=["kv_b_proj"], init_lora_weights=False))
adapted.save_pretrained(f"{folder}/adapter")
adapted.merge_and_unload().save_pretrained(f"{folder}/merged")
model, worker = served(f"{folder}/base")
before = model.model.layers[0].self_attn.mla_attn.mla_attn.W_UV.clone()
worker.add_adapter(LoRARequest("one", 1, f"{folder}/adapter"))
got = model.model.layers[0].self_attn.mla_attn.mla_attn.W_UV - before
merged = served(f"{folder}/merged")[0].model.layers[0].self_attn.mla_attn.mla_attn.W_UV - before
report(
    f"the adapter adds up to {merged.abs().max():.3g} to W_UV, as in the merged checkpoint",
    f"it adds {got.abs().max():.3g}",
    not torch.allclose(got, merged, atol=1e-4),
)
