"""An adapter of latent attention's kv_b_proj does nothing in prefill either: the implementation has the bare layer.

Finding 47 is about decoding, which multiplies with copies of the weight. In prefill the implementation of the
attention calls `kv_b_proj` (`forward_mha`); it was handed the layer when it was made, it is no module, and nothing
points it to the wrapper. Every model of DeepSeek V2's kind. What attention makes of keys and values is left out here.
Clause MODEL-2. Releases: 0.33.0.
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
from transformers import DeepseekV2Config, DeepseekV2ForCausalLM
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.distributed import init_distributed_environment, initialize_model_parallel
from vllm.engine.arg_utils import EngineArgs
from vllm.lora.layers import LoRAMapping
from vllm.lora.request import LoRARequest
from vllm.lora.worker_manager import LRUCacheWorkerLoRAManager
from vllm.model_executor.model_loader import get_model

torch.set_grad_enabled(False)
folder = tempfile.mkdtemp()
with set_current_vllm_config(VllmConfig()):
    init_distributed_environment(1, 0, f"file://{folder}/rendezvous", 0, backend="gloo")
    initialize_model_parallel(1, 1)


def served(directory):
    """The model in a directory, the worker's manager of its adapters, and the engine's configuration."""
    options = EngineArgs(
        model=directory, dtype="float32", skip_tokenizer_init=True, enforce_eager=True, enable_lora=True
    )
    config = options.create_engine_config()
    with set_current_vllm_config(config):
        model = get_model(vllm_config=config)
        worker = LRUCacheWorkerLoRAManager(config, torch.device("cpu"), model.embedding_modules)
        worker.create_lora_manager(model, config)
    return model, worker, config


def report(expected, got, present):
    """Ends the script: 1 where the defect is there, 0 where not."""
    print(f"expected: {expected}\ngot:      {got}\n{'PRESENT' if present else 'absent'} in vLLM {vllm.__version__}")
    sys.exit(int(present))


small = DeepseekV2Config(
    hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=4,
    q_lora_rank=24, kv_lora_rank=32, qk_nope_head_dim=16, qk_rope_head_dim=8, v_head_dim=16, first_k_dense_replace=1,
    vocab_size=128, max_position_embeddings=64,
)  # fmt: skip
base = DeepseekV2ForCausalLM(small)
base.save_pretrained(f"{folder}/base")
adapted = get_peft_model(base, LoraConfig(r=1, target_modules=["kv_b_proj"], init_lora_weights=False))
adapted.save_pretrained(f"{folder}/adapter")
adapted.merge_and_unload().save_pretrained(f"{folder}/merged")
model, worker, _ = served(f"{folder}/base")
other = served(f"{folder}/merged")[0]
latent = torch.linspace(-1, 1, 32).view(1, 32)
attention = model.model.layers[0].self_attn
worker.set_active_adapters({LoRARequest("one", 1, f"{folder}/adapter")}, LoRAMapping((1,), (1,), is_prefill=True))


def values(attention):
    """The values that a prompt of one token gets."""
    seen, implementation = [], attention.mla_attn.mla_attn.impl

    def run(q, k, v, **others):
        seen.append(v.clone())
        return torch.zeros(1, 4, 16)

    backend = SimpleNamespace(run_prefill_new_tokens=run)
    told = SimpleNamespace(prefill=SimpleNamespace(prefill_backend=backend, q_data_type=None, chunked_context=None))
    query, turning, output = torch.zeros(1, 4, 24), torch.zeros(1, 1, 8), torch.zeros(1, 64)
    implementation.forward_mha(query, latent, turning, None, told, None, output)
    return seen[0].flatten()


got, expected = values(attention), values(other.model.layers[0].self_attn)
attention.mla_attn.mla_attn.impl.kv_b_proj = attention.kv_b_proj  # what it calls, pointed to the wrapper
assert torch.allclose(values(attention), expected, atol=1e-4), "that it has the bare layer is not why"
without = attention.kv_b_proj.base_layer(latent)[0].view(4, 32)[:, 16:].flatten()
report(
    f"the first value is {float(expected[0]):g}, as of the merged checkpoint",
    f"{float(got[0]):g}, that of the base model: {got.equal(without)}",
    got.equal(without) and not torch.allclose(got, expected, atol=1e-4),
)
