"""An adapter of experts is cut into too many where expert parallelism keeps some of them twice.

With the load balancer on (enable_eplb, num_redundant_experts=4) two ranks have eight places for four experts. LoRA
takes the rows of a stacked adapter to be of eight, too: an adapter of rank 2 is served as eight of rank 1, one of rank
1 ends in an error of sizes. Without copies it is right. Every mixture that takes copies.
Clause MODEL-7. Releases: 0.33.0.
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
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.distributed import init_distributed_environment, initialize_model_parallel, parallel_state
from vllm.engine.arg_utils import EngineArgs
from vllm.lora.request import LoRARequest
from vllm.lora.worker_manager import LRUCacheWorkerLoRAManager
from vllm.model_executor.model_loader import get_model

torch.set_grad_enabled(False)


class Group:
    """Stands in for rank 0 of the tensor-parallel group; loading asks the others for nothing."""

    world_size, rank_in_group, ranks = 2, 0, list(range(2))


folder = tempfile.mkdtemp()
with set_current_vllm_config(VllmConfig()):
    init_distributed_environment(1, 0, f"file://{folder}/rendezvous", 0, backend="gloo")
    initialize_model_parallel(1, 1)


def served(directory, copies):
    """The model in a directory, with so many copies of experts, and the worker's manager of its adapters."""
    options = EngineArgs(
        model=directory, dtype="float32", skip_tokenizer_init=True, enforce_eager=True, max_model_len=64,
        enable_lora=True, enable_mixed_moe_lora_format=True, enable_expert_parallel=True,
    )  # fmt: skip
    config = options.create_engine_config()
    parallel_state._TP = Group()
    config.parallel_config.tensor_parallel_size = config.parallel_config.world_size = 2
    config.parallel_config.enable_eplb = copies > 0  # options of EngineArgs, which vLLM takes on a GPU alone
    config.parallel_config.eplb_config.num_redundant_experts = copies
    with set_current_vllm_config(config):
        model = get_model(vllm_config=config)
        worker = LRUCacheWorkerLoRAManager(config, torch.device("cpu"), model.embedding_modules)
        worker.create_lora_manager(model, config)
    return model, worker


def off_by(copies):
    """How far what an adapter adds to the experts of rank 0 is from what the merged checkpoint has."""
    model, worker = served(f"{folder}/base", copies)
    merged, own = (dict(one.named_parameters()) for one in (served(f"{folder}/merged", copies)[0], model))
    (weight,) = (name for name in own if name.endswith("w13_weight"))
    right = merged[weight] - own[weight]
    worker.add_adapter(LoRARequest("one", 1, f"{folder}/adapter", is_3d_lora_weight=True))
    layer = model.model.layers[0].mlp.experts
    slots = zip(layer.w13_lora_a_stacked, layer.w13_lora_b_stacked, strict=True)
    return float((torch.cat([b[0] @ a[0] for a, b in slots], dim=1) - right).abs().max())


def report(expected, got, present):
    """Ends the script: 1 where the defect is there, 0 where not."""
    print(f"expected: {expected}\ngot:      {got}\n{'PRESENT' if present else 'absent'} in vLLM {vllm.__version__}")
    sys.exit(int(present))


small = Qwen3MoeConfig(
    hidden_size=64, moe_intermediate_size=48, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=4,
    head_dim=16, num_experts=4, num_experts_per_tok=2, vocab_size=128, max_position_embeddings=64,
)  # fmt: skip
base = Qwen3MoeForCausalLM(small)
base.save_pretrained(f"{folder}/base")
experts = ["experts.gate_up_proj", "experts.down_proj"]
adapted = get_peft_model(base, LoraConfig(r=2, target_parameters=experts, init_lora_weights=False))
adapted.save_pretrained(f"{folder}/adapter")
adapted.merge_and_unload().save_pretrained(f"{folder}/merged")
without, with_copies = off_by(0), off_by(4)
report(
    "the experts of rank 0 of 2 get what the merged checkpoint has, with and without copies of them",
    f"what they get is off by {without:.2g} without copies, and by {with_copies:.2g} with four",
    without < 1e-5 and with_copies > 1e-2,
)
