"""An adapter of Qwen2-MoE's shared_expert_gate is loaded, and the shared expert is weighted without it.

The block hands its `shared_expert_gate` to the shared expert, which calls it as `expert_gate`. LoRA points further
names of a layer to the wrapper, but looks at those names alone whose last part it knows of some layer's first name: at
this one never. Qwen3-Next, Qwen3.5-MoE, Qwen4Exp and AliceAI likewise. `all-linear` of PEFT has this layer.
Clause MODEL-2. Releases: 0.33.0.
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
from transformers import Qwen2MoeConfig, Qwen2MoeForCausalLM
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.distributed import init_distributed_environment, initialize_model_parallel
from vllm.engine.arg_utils import EngineArgs
from vllm.lora.layers import LoRAMapping
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
        model=directory, dtype="float32", skip_tokenizer_init=True, enforce_eager=True, enable_lora=True
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


small = Qwen2MoeConfig(
    hidden_size=64, intermediate_size=128, moe_intermediate_size=48, shared_expert_intermediate_size=48,
    num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=4, num_experts=4, num_experts_per_tok=2,
    vocab_size=128, max_position_embeddings=64,
)  # fmt: skip
base = Qwen2MoeForCausalLM(small)
base.save_pretrained(f"{folder}/base")
adapted = get_peft_model(base, LoraConfig(r=1, target_modules=["shared_expert_gate"], init_lora_weights=False))
adapted.save_pretrained(f"{folder}/adapter")
adapted.merge_and_unload().save_pretrained(f"{folder}/merged")
model, worker, _ = served(f"{folder}/base")
other, idle, _ = served(f"{folder}/merged")
token = torch.linspace(-1, 1, 64).view(1, 64)
mlp = model.model.layers[0].mlp
for one in (worker, idle):
    one.set_active_adapters(set(), LoRAMapping((0,), (0,), is_prefill=True))
without = mlp.shared_expert(token)
worker.set_active_adapters({LoRARequest("one", 1, f"{folder}/adapter")}, LoRAMapping((1,), (1,), is_prefill=True))
got, expected = mlp.shared_expert(token), other.model.layers[0].mlp.shared_expert(token)
mlp.shared_expert.expert_gate = mlp.shared_expert_gate  # what the shared expert calls, pointed to the wrapper
assert torch.allclose(mlp.shared_expert(token), expected, rtol=1e-4), "that it has the bare layer is not why"
report(
    f"the shared expert gives {float(expected[0, 0]):g}, as of the merged checkpoint",
    f"{float(got[0, 0]):g}, that of the base model: {got.equal(without)}",
    got.equal(without) and not torch.allclose(got, expected, rtol=1e-4),
)
