"""An adapter of the experts of K2 Horizon's values is loaded, and its forward does not ask for it.

`self_attn.v_experts` are column-parallel layers, which LoRA wraps. The forward calls none of them: it stacks their
weights and hands them to a fused kernel (`compute_mova_v_sparse`), and a wrapper's `weight` is the base layer's. The
kernel is a stand-in of torch here. An instance of finding 20; AliceAI's `attn_res_proj`, `mlp_res_proj` and
`res_proj`, of which `attn_res` is handed the weight, are read in the same way.
Clause WRAP-7. Releases: 0.33.0.
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

from safetensors.torch import save_file
from transformers import AutoConfig, PretrainedConfig
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.distributed import init_distributed_environment, initialize_model_parallel
from vllm.engine.arg_utils import EngineArgs
from vllm.lora.layers import LoRAMapping
from vllm.lora.request import LoRARequest
from vllm.lora.worker_manager import LRUCacheWorkerLoRAManager
from vllm.model_executor.model_loader import get_model
from vllm.model_executor.models import k2_horizon

torch.set_grad_enabled(False)
folder = tempfile.mkdtemp()
with set_current_vllm_config(VllmConfig()):
    init_distributed_environment(1, 0, f"file://{folder}/rendezvous", 0, backend="gloo")
    initialize_model_parallel(1, 1)


def served(directory):
    """The model in a directory, the worker's manager of its adapters, and the engine's configuration."""
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
    return model, worker, config


def report(expected, got, present):
    """Ends the script: 1 where the defect is there, 0 where not."""
    print(f"expected: {expected}\ngot:      {got}\n{'PRESENT' if present else 'absent'} in vLLM {vllm.__version__}")
    sys.exit(int(present))


class K2HorizonConfig(PretrainedConfig):
    """As the code that is published with the weights has it."""

    model_type = "k2_horizon"


AutoConfig.register("k2_horizon", K2HorizonConfig)
small = {
    "model_type": "k2_horizon", "architectures": ["K2HorizonForCausalLM"], "hidden_size": 64, "intermediate_size": 128,
    "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 16, "vocab_size": 128,
    "max_position_embeddings": 256, "rms_norm_eps": 1e-6, "hidden_act": "silu", "num_experts": 4,
    "num_experts_per_tok": 2, "moe_intermediate_size": 48, "num_shared_experts": 1, "mlp_only_layers": [],
    "decoder_sparse_step": 1, "norm_topk_prob": True, "moe_gate_bias": False, "router_score_func": "sigmoid",
    "router_scaling_factor": 1.0, "mova_num_experts": 4, "mova_num_experts_per_tok": 2, "rope_head_dim": 8,
    "query_key_norm": False, "attention_bias": False, "attention_gate_func": None, "layernorm_num_groups": 1,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}, "tie_word_embeddings": False,
}  # fmt: skip
os.makedirs(f"{folder}/base")
with open(f"{folder}/base/config.json", "w") as file:
    json.dump(small, file)


model, worker, config = served(f"{folder}/base")


def kernel(config, hidden_states, w1, topk_weights, topk_ids, **others):
    """What the fused kernel computes, by torch."""
    chosen = torch.einsum("th,tkoh->tko", hidden_states, w1[topk_ids])
    return (torch.nn.functional.silu(chosen) * topk_weights[..., None]).sum(1)


k2_horizon.fused_mova_impl = kernel
for parameter in model.parameters():
    parameter.fill_(0.25)
attention, hidden = model.model.layers[0].self_attn, torch.ones(1, 64)


def values(lora_id):
    """The values of one token, of whom an adapter is asked for, or none."""
    mapping = LoRAMapping((lora_id,), (lora_id,), is_prefill=True)
    worker.set_active_adapters({request} if lora_id else set(), mapping)
    return float(attention.compute_mova_v_sparse(hidden)[0, 0])


key = "base_model.model.model.layers.0.self_attn.v_experts"
os.makedirs(f"{folder}/adapter")
told = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": ["0", "1", "2", "3"], "bias": "none"}
with open(f"{folder}/adapter/adapter_config.json", "w") as file:
    json.dump(told, file)
factors = {}
for number in range(4):
    factors[f"{key}.{number}.lora_A.weight"] = torch.full((1, 64), 0.25)
    factors[f"{key}.{number}.lora_B.weight"] = torch.ones(64, 1)
save_file(factors, f"{folder}/adapter/adapter_model.safetensors")
request = LoRARequest("one", 1, f"{folder}/adapter")
base, got = values(0), values(1)
for expert in attention.v_experts:
    expert.base_layer.weight.add_(0.25)  # B · A
expected = values(0)
report(f"{expected:g}, of which {base:g} is the base model's", f"{got:g}", got == base != expected)
