"""Under TP LoRA cuts Qwen3-Next's in_proj_qkvz, a merged layer of one output, in two as gate and up: rows move.

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
from safetensors.torch import load_file, save_file
from transformers import Qwen3NextConfig, Qwen3NextForCausalLM
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.distributed import init_distributed_environment, initialize_model_parallel, parallel_state
from vllm.engine.arg_utils import EngineArgs
from vllm.lora.request import LoRARequest
from vllm.lora.worker_manager import LRUCacheWorkerLoRAManager
from vllm.model_executor.model_loader import get_model

torch.set_grad_enabled(False)


class Group:
    """Stands in for rank 0 of the tensor-parallel group; `in_proj` asks the others for nothing."""

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


small = Qwen3NextConfig(
    hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=4,
    head_dim=16, linear_num_key_heads=4, linear_num_value_heads=8, linear_key_head_dim=8, linear_value_head_dim=8,
    layer_types=["linear_attention"], num_experts=4, num_experts_per_tok=2, vocab_size=128,
    moe_intermediate_size=48, shared_expert_intermediate_size=48, max_position_embeddings=64,
)  # fmt: skip
base = Qwen3NextForCausalLM(small)
base.save_pretrained(f"{folder}/base")
adapted = get_peft_model(base, LoraConfig(r=1, target_modules=["in_proj_qkvz"], init_lora_weights=False))
adapted.save_pretrained(f"{folder}/adapter")
adapted.merge_and_unload().save_pretrained(f"{folder}/merged")
tensors = load_file(f"{folder}/adapter/adapter_model.safetensors")
key = next(name for name in tensors if "lora_B" in name)
model, worker = served(f"{folder}/base")
worker.add_adapter(LoRARequest("one", 1, f"{folder}/adapter"))
layer = model.model.layers[0].linear_attn.in_proj_qkvz
slots = zip(layer.lora_a_stacked, layer.lora_b_stacked, strict=True)
got = torch.cat([b[0, 0] @ a[0, 0] for a, b in slots])
right = served(f"{folder}/merged")[0].model.layers[0].linear_attn.in_proj_qkvz.base_layer.weight
merged = right - layer.base_layer.weight
wrong = [row for row in range(len(merged)) if not torch.allclose(got[row], merged[row], atol=1e-5)]
quarters = tensors[key].chunk(4)  # of which rank 0 was given the first and the third, as gate and up have theirs
tensors[key] = torch.cat([quarters[number] for number in (0, 2, 1, 3)])
save_file(tensors, f"{folder}/adapter/adapter_model.safetensors")
worker.add_adapter(LoRARequest("two", 2, f"{folder}/adapter"))
undone = layer.lora_b_stacked[0][0, 0] @ layer.lora_a_stacked[0][0, 0]
assert torch.allclose(undone, merged, atol=1e-5), "the cut into two halves is not why"
report(
    "B · A of rank 0 is what the merged checkpoint adds to its rows",
    f"{len(wrong)} rows are not, from row {wrong[:1]}; all are of a B with its middle quarters exchanged",
    bool(wrong),
)
