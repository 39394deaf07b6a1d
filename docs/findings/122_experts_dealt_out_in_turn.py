"""An adapter of experts is given to the wrong ones where expert parallelism deals them out in turn.

With expert_placement_strategy="round_robin" rank 0 of 2 has the first and the third of four experts; LoRA takes those
of a rank to be neighbours, and hands the third one the adapter of the second. It is for models whose experts are in
groups, such as DeepSeek V3 and GLM-4.5.
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
from transformers import Glm4MoeConfig, Glm4MoeForCausalLM
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


def served(directory):
    """The model in a directory, and the worker's manager of its adapters."""
    options = EngineArgs(
        model=directory, dtype="float32", skip_tokenizer_init=True, enforce_eager=True, max_model_len=64,
        enable_lora=True, enable_mixed_moe_lora_format=True, enable_expert_parallel=True,
        expert_placement_strategy="round_robin",
    )  # fmt: skip
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


small = Glm4MoeConfig(
    hidden_size=64, moe_intermediate_size=48, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=4,
    head_dim=16, n_routed_experts=4, num_experts_per_tok=2, n_group=2, topk_group=1, first_k_dense_replace=0,
    vocab_size=128, max_position_embeddings=64, eos_token_id=1,
)  # fmt: skip
base = Glm4MoeForCausalLM(small)
base.save_pretrained(f"{folder}/base")
experts = ["experts.gate_up_proj", "experts.down_proj"]
adapted = get_peft_model(base, LoraConfig(r=1, target_parameters=experts, init_lora_weights=False))
adapted.save_pretrained(f"{folder}/adapter")
adapted.merge_and_unload().save_pretrained(f"{folder}/merged")
model, worker = served(f"{folder}/base")
merged, own = (dict(one.named_parameters()) for one in (served(f"{folder}/merged")[0], model))
(weight,) = (name for name in own if name.endswith("w13_weight"))
layer = model.model.layers[0].mlp.experts
placed = layer.base_layer.routed_experts.expert_map
owned = (placed >= 0).nonzero().flatten().tolist()
worker.add_adapter(LoRARequest("one", 1, f"{folder}/adapter", is_3d_lora_weight=True))
slots = zip(layer.w13_lora_a_stacked, layer.w13_lora_b_stacked, strict=True)
got = torch.cat([b[0] @ a[0] for a, b in slots], dim=1)
right = merged[weight] - own[weight]
off = (got - right).abs().amax(dim=(1, 2)).tolist()
report(
    f"to the experts of rank 0 of 2, {owned}, their adapter adds what the merged checkpoint has",
    f"what it adds is off by {off[0]:.2g} and {off[1]:.2g}",
    off[0] < 1e-5 and off[1] > 1e-2,
)
