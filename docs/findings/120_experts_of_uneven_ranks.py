"""An adapter of experts is given to the wrong ones where expert parallelism does not divide them evenly.

The base layer gives the first ranks one expert more each, so that rank 2 of 4 has the fifth of six; LoRA takes each
rank before it to have as many as that one, and hands it the adapter of the third. Of Qwen1.5-MoE's 60 experts on 8
ranks those of ranks 4 to 7 are wrong.
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
    """Stands in for rank 2 of the tensor-parallel group; loading asks the others for nothing."""

    world_size, rank_in_group, ranks = 4, 2, list(range(4))


folder = tempfile.mkdtemp()
with set_current_vllm_config(VllmConfig()):
    init_distributed_environment(1, 0, f"file://{folder}/rendezvous", 0, backend="gloo")
    initialize_model_parallel(1, 1)


def served(directory):
    """The model in a directory, and the worker's manager of its adapters."""
    config = EngineArgs(
        model=directory, dtype="float32", skip_tokenizer_init=True, enforce_eager=True, max_model_len=64,
        enable_lora=True, enable_mixed_moe_lora_format=True, enable_expert_parallel=True,
    ).create_engine_config()  # fmt: skip
    parallel_state._TP = Group()
    config.parallel_config.tensor_parallel_size = config.parallel_config.world_size = 4
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
    hidden_size=64, moe_intermediate_size=48, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=4,
    head_dim=16, num_experts=6, num_experts_per_tok=2, vocab_size=128, max_position_embeddings=64, eos_token_id=1,
)  # fmt: skip
base = Qwen3MoeForCausalLM(small)
base.save_pretrained(f"{folder}/base")
asked = LoraConfig(r=1, target_parameters=["experts.gate_up_proj", "experts.down_proj"], init_lora_weights=False)
adapted = get_peft_model(base, asked)
adapted.save_pretrained(f"{folder}/adapter")
adapted.merge_and_unload().save_pretrained(f"{folder}/merged")
model, worker = served(f"{folder}/base")
merged, own = (dict(one.named_parameters()) for one in (served(f"{folder}/merged")[0], model))
(weight,) = (name for name in own if name.endswith("w13_weight"))
layer = model.model.layers[0].mlp.experts
owned = int(layer.base_layer.routed_experts.expert_map.argmax())


def wrong(number):
    """How far what the adapter adds to the expert of this rank is from what the merged checkpoint has."""
    worker.add_adapter(LoRARequest("one", number, f"{folder}/adapter", is_3d_lora_weight=True))
    got = layer.w13_lora_b_stacked[0][0, 0] @ layer.w13_lora_a_stacked[0][0, 0]
    return float((got - (merged[weight] - own[weight])[0, : len(got)]).abs().max())


got = wrong(1)
type(layer).ep_rank = owned  # LoRA's first expert of a rank is its number times its experts, of which it has one
report(
    f"rank 2 of 4 has expert {owned} of 6, to which its adapter adds what the merged checkpoint has",
    f"what it adds is off by {got:.2g}; where LoRA is told of expert {owned}, by {(mended := wrong(2)):.2g}",
    got > 1e-2 and mended < 1e-5,
)
