"""AliceAI declares LoRA and does not start with it.

Its three convolutions are one layer, `linear_attn.conv1d`, which its class declares to be packed of three. It is a
column-parallel layer of one output, no merged one, and a dummy adapter of the warm-up gets a list for it: the start
ends in a bare AssertionError. Without that declaration it starts.
Clause MODEL-6. Releases: 0.33.0.
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

from transformers import AutoConfig, PretrainedConfig
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.distributed import init_distributed_environment, initialize_model_parallel
from vllm.engine.arg_utils import EngineArgs
from vllm.lora.layers import LoRAMapping
from vllm.lora.request import LoRARequest
from vllm.lora.worker_manager import LRUCacheWorkerLoRAManager
from vllm.model_executor.model_loader import get_model
from vllm.model_executor.models import alice_ai

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


class AliceConfig(PretrainedConfig):
    """As the code that is published with the weights has it."""

    model_type = "alice_ai"


AutoConfig.register("alice_ai", AliceConfig)
small = {
    "model_type": "alice_ai", "architectures": ["AliceAIForCausalLM"], "hidden_size": 64, "intermediate_size": 128,
    "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 16, "vocab_size": 128,
    "max_position_embeddings": 256, "rms_norm_eps": 1e-6, "hidden_act": "silu", "num_experts": 4,
    "num_experts_per_tok": 2, "moe_intermediate_size": 48, "shared_expert_intermediate_size": 48,
    "norm_topk_prob": True, "layer_types": ["linear_attention"], "linear_num_key_heads": 4,
    "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_conv_kernel_dim": 4,
    "block_attn_res_block_size": 4, "kda_allow_negative_eigenvalues": False, "router_score_function": "sigmoid",
    "router_bias_correction": True, "tie_word_embeddings": False,
}  # fmt: skip
os.makedirs(f"{folder}/base")
with open(f"{folder}/base/config.json", "w") as file:
    json.dump(small, file)


def start():
    """Warms up as a worker does."""
    _, worker = served(f"{folder}/base")
    dummy = LoRARequest("warmup", 1, "/not/a/real/path")
    worker.add_dummy_lora(dummy, 8)
    try:
        worker.set_active_adapters({dummy}, LoRAMapping((1,), (1,), is_prefill=True))
    except AssertionError as error:
        return f"AssertionError: {error}"
    return "it starts"


got = start()
del alice_ai.AliceAIForCausalLM.packed_modules_mapping["conv1d"]
mended = start()
report(
    "a class that declares LoRA starts with it",
    f"{got!r}; without the declaration of conv1d {mended!r}",
    got != mended == "it starts",
)
