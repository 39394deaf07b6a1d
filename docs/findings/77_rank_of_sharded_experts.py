"""An adapter of experts whose rank the ranks of TP do not divide ends in an AssertionError that says nothing.

With `fully_sharded_loras` each rank holds a part of A's rows. Linear layers take any rank, as what is missing in the
last part is zeros; experts ask that TP divides the adapter's rank, where `max_lora_rank` is what is cut. So rank 1 is
not served on two GPUs, nor rank 2 on four.
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
from transformers import GptOssConfig, GptOssForCausalLM
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.distributed import init_distributed_environment, initialize_model_parallel, parallel_state
from vllm.engine.arg_utils import EngineArgs
from vllm.lora.request import LoRARequest
from vllm.lora.worker_manager import LRUCacheWorkerLoRAManager
from vllm.model_executor.model_loader import get_model

torch.set_grad_enabled(False)


class Group:
    """Stands in for rank 0 of the tensor-parallel group; loading asks the others for nothing."""

    world_size, rank_in_group, ranks = 2, 0, [0, 1]


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
        fully_sharded_loras=True,
        load_format="dummy",
    )
    config = options.create_engine_config()
    parallel_state._TP = Group()
    config.parallel_config.tensor_parallel_size = config.parallel_config.world_size = 2
    with set_current_vllm_config(config):
        model = get_model(vllm_config=config)
        worker = LRUCacheWorkerLoRAManager(config, torch.device("cpu"), model.embedding_modules)
        worker.create_lora_manager(model, config)
    return model, worker


def report(expected, got, present):
    """Ends the script: 1 where the defect is there, 0 where not."""
    print(f"expected: {expected}\ngot:      {got}\n{'PRESENT' if present else 'absent'} in vLLM {vllm.__version__}")
    sys.exit(int(present))


small = GptOssConfig(
    hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=4,
    head_dim=16, num_local_experts=4, num_experts_per_tok=2, vocab_size=128, max_position_embeddings=64,
    layer_types=["full_attention"], pad_token_id=0, eos_token_id=1, architectures=["GptOssForCausalLM"],
)  # fmt: skip
small.save_pretrained(f"{folder}/base")
experts = ["experts.gate_up_proj", "experts.down_proj"]
model, worker = served(f"{folder}/base")


def loaded(number, **adapted):
    """How loading such an adapter ends."""
    config = LoraConfig(init_lora_weights=False, **adapted)
    get_peft_model(GptOssForCausalLM(small), config).save_pretrained(f"{folder}/{number}")
    try:
        worker.add_adapter(LoRARequest(str(number), number, f"{folder}/{number}"))
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "loaded"


ends = [loaded(1, r=1, target_modules=["o_proj"]), loaded(2, r=2, target_parameters=experts)]
last = loaded(3, r=1, target_parameters=experts)
report(
    "an adapter of rank 1 is loaded on two ranks, or refused by a sentence",
    f"of o_proj: {ends[0]}; of experts, rank 2: {ends[1]}; of experts, rank 1: {last}",
    ends == ["loaded", "loaded"] and last == "AssertionError: ",
)
