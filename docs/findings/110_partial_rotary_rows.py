"""An adapter of K2 Horizon's q_proj or k_proj is added to other rows than those that it was trained for.

Rotary embedding is partial there, and its numbers are strewn over a head. The loader gathers them, row by row, so
that vLLM's own partial rotary embedding can be used (`_rope_weight_perm`); an adapter's B stays as it is. Wherever
`rope_head_dim` is less than `head_dim`, rows of B are added to rows of the weight that are others in the checkpoint.
Clause MODEL-2. Releases: 0.33.0.
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
    "num_experts_per_tok": 2, "moe_intermediate_size": 48, "num_shared_experts": 1, "mlp_only_layers": [0],
    "decoder_sparse_step": 1, "norm_topk_prob": True, "moe_gate_bias": False, "router_score_func": "sigmoid",
    "router_scaling_factor": 1.0, "mova_num_experts": 4, "mova_num_experts_per_tok": 2, "rope_head_dim": 8,
    "query_key_norm": False, "attention_bias": False, "attention_gate_func": None, "layernorm_num_groups": 1,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}, "tie_word_embeddings": False,
}  # fmt: skip
os.makedirs(f"{folder}/base")
with open(f"{folder}/base/config.json", "w") as file:
    json.dump(small, file)

model, worker, config = served(f"{folder}/base")

key = "model.layers.0.self_attn.q_proj"
a, b = torch.eye(64)[:1], torch.arange(64.0)[:, None]
os.makedirs(f"{folder}/adapter")
told = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": ["q_proj"], "bias": "none"}
with open(f"{folder}/adapter/adapter_config.json", "w") as file:
    json.dump(told, file)
factors = {f"base_model.model.{key}.lora_A.weight": a, f"base_model.model.{key}.lora_B.weight": b}
save_file(factors, f"{folder}/adapter/adapter_model.safetensors")
worker.add_adapter(LoRARequest("one", 1, f"{folder}/adapter"))
slot = model.model.layers[0].self_attn.qkv_proj.lora_b_stacked[0].squeeze()
got = [int(row) for row in slot[:16, 0]]  # of the first head

# Merged into a base of zeros it is B · A, whose first column is B.
config.compilation_config.static_forward_context.clear()  # in which every layer is known once
with set_current_vllm_config(config):
    merged = get_model(vllm_config=config)
merged.load_weights([(f"{key}.weight", b @ a)])
weight = merged.model.layers[0].self_attn.qkv_proj.weight
expected = [int(row) for row in weight[:16, 0]]
report(f"the rows of B where the loader puts those of q_proj: {expected}", f"{got}", got != expected)
