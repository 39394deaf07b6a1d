"""An adapter of some experts of a mixture ends in an AssertionError without a word.

PEFT writes such a file where each expert has modules of its own, as experts had in transformers 4. The experts that it
leaves alone are packed as None (`PackedLoRALayerWeights.pack_moe`, which has a note that they are not considered).
With a B of zeros for each of those the same adapter is served.
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

from peft import LoraConfig
from safetensors.torch import save_file
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM
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


small = Qwen3MoeConfig(
    hidden_size=64, intermediate_size=128, moe_intermediate_size=48, num_hidden_layers=1, num_attention_heads=4,
    num_key_value_heads=4, head_dim=16, num_experts=4, vocab_size=128, max_position_embeddings=64,
    bos_token_id=1, eos_token_id=2,
)  # fmt: skip
base = Qwen3MoeForCausalLM(small)
base.save_pretrained(f"{folder}/base")


def outcome(number, experts):
    """How an adapter is taken that has numbers for one expert, and zeros for the rest of so many."""
    directory, tensors = f"{folder}/{number}", {}
    LoraConfig(r=1, target_modules=["gate_proj", "up_proj", "down_proj"]).save_pretrained(directory)
    for expert in range(experts):
        for name, (rows, columns) in {"gate_proj": (48, 64), "up_proj": (48, 64), "down_proj": (64, 48)}.items():
            key = f"base_model.model.model.layers.0.mlp.experts.{expert}.{name}.lora_"
            tensors[f"{key}A.weight"] = torch.ones(1, columns)
            tensors[f"{key}B.weight"] = torch.full((rows, 1), float(expert == 0))
    save_file(tensors, f"{directory}/adapter_model.safetensors")
    try:
        worker.add_adapter(LoRARequest(f"{number}", number, directory))
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "served"


model, worker = served(f"{folder}/base")
got, with_zeros = outcome(1, 1), outcome(2, 4)
assert with_zeros == "served", f"that others have none is not why: {with_zeros}"
report(
    "it is served, or refused by an error that names the experts",
    f"{got}; with zeros for the others: {with_zeros}",
    got != "served" and "experts" not in got,
)
