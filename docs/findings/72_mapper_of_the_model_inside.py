"""An adapter of Param2's query_key_value loads and does nothing.

The layer is `self_attn.qkv_proj`. That name is told by a mapper of the model inside, and LoRA asks the class that it
is handed, which has none; and that class declares query_key_value the only member of qkv_proj, which lets the name
pass the check, and is not looked up, as a single member is not. With the mapper, and qkv_proj a member of itself, the
adapter is served.
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

from safetensors.torch import save_file
from transformers import AutoConfig, PretrainedConfig
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.distributed import init_distributed_environment, initialize_model_parallel
from vllm.engine.arg_utils import EngineArgs
from vllm.lora.request import LoRARequest
from vllm.lora.worker_manager import LRUCacheWorkerLoRAManager
from vllm.model_executor.model_loader import get_model
from vllm.model_executor.models import param2moe

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


class Param2Config(PretrainedConfig):
    """As the code that is published with the weights has it."""

    model_type = "param2moe"


AutoConfig.register("param2moe", Param2Config)
small = {
    "model_type": "param2moe", "architectures": ["Param2MoEForCausalLM"], "hidden_size": 64, "intermediate_size": 128,
    "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 16, "vocab_size": 128,
    "max_position_embeddings": 256, "rms_norm_eps": 1e-6, "hidden_act": "silu", "num_experts": 4,
    "num_experts_per_tok": 2, "moe_intermediate_size": 48, "num_shared_experts": 1, "first_k_dense_replace": 0,
    "moe_shared_expert_intermediate_size": 48, "norm_topk_prob": True, "n_group": 1, "topk_group": 1,
    "use_bias": False, "use_qkv_bias": False, "embedding_dropout": 0.0, "routed_scaling_factor": 1.0,
    "score_function": "sigmoid", "moe_router_enable_expert_bias": True, "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}  # fmt: skip
os.makedirs(f"{folder}/base")
with open(f"{folder}/base/config.json", "w") as file:
    json.dump(small, file)


os.makedirs(f"{folder}/adapter")
told = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": ["query_key_value"], "bias": "none"}
with open(f"{folder}/adapter/adapter_config.json", "w") as file:
    json.dump(told, file)
key = "base_model.model.model.layers.0.attention.query_key_value"
factors = {f"{key}.lora_A.weight": torch.ones(1, 64), f"{key}.lora_B.weight": torch.ones(192, 1)}
save_file(factors, f"{folder}/adapter/adapter_model.safetensors")


def added():
    """The largest number that the adapter has in its layer's slot."""
    model, worker = served(f"{folder}/base")
    worker.add_adapter(LoRARequest("one", 1, f"{folder}/adapter"))
    return max(float(one.abs().max()) for one in model.model.layers[0].self_attn.qkv_proj.lora_b_stacked)


got = added()
param2moe.Param2MoEForCausalLM.hf_to_vllm_mapper = param2moe.Param2MoEModel.hf_to_vllm_mapper
param2moe.Param2MoEForCausalLM.packed_modules_mapping = {"qkv_proj": ["qkv_proj"]}
mended = added()
report(
    "an adapter of the checkpoint's attention.query_key_value is in the slot of its layer, or is refused by name",
    f"it loads, and the largest number there is {got:g}; with mapper, and qkv_proj a member of itself, {mended:g}",
    not got and mended == 1,
)
