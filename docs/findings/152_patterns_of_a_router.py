"""A pattern of a router's alpha is not looked at where PEFT adapts the router as a parameter (`target_parameters`).

PEFT asks `alpha_pattern` and `rank_pattern` with the parameter's name, `mlp.gate.weight`, and transformers' mixtures
hold their router's weight so. vLLM asks with the module's, `mlp.gate` (`PEFTHelper`), and takes the adapter's alpha.
Seen on the Transformers backend, whose router is a LoRA layer.
Clause MODEL-2. Releases: 0.33.0.
"""

# ruff: noqa: E402
import os

os.environ |= {"VLLM_TARGET_DEVICE": "cpu", "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_PLUGINS": "", "HF_HUB_OFFLINE": "1"}
os.environ |= {"HUMMING_DISABLE_PARALLEL_BUILD": "1"}  # or importing vLLM starts background builds

import json
import sys
import tempfile
from pathlib import Path

import torch
import vllm.platforms
from vllm.platforms.cpu import CpuPlatform

vllm.platforms._current_platform = CpuPlatform()  # the wheel of a machine without a GPU has none

from peft import LoraConfig, get_peft_model
from transformers import MixtralConfig, MixtralForCausalLM
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


def report(expected, got, present):
    """Ends the script: 1 where the defect is there, 0 where not."""
    print(f"expected: {expected}\ngot:      {got}\n{'PRESENT' if present else 'absent'} in vLLM {vllm.__version__}")
    sys.exit(int(present))


base = MixtralForCausalLM(
    MixtralConfig(
        vocab_size=128, hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=4, head_dim=16, max_position_embeddings=256, num_local_experts=4,
    )
)  # fmt: skip
base.save_pretrained(f"{folder}/base")
asked = LoraConfig(
    r=1, lora_alpha=1, target_parameters=["gate.weight"], alpha_pattern={"gate.weight": 4}, init_lora_weights=False
)
adapted = get_peft_model(base, asked)
adapted.save_pretrained(f"{folder}/adapter")
a, b = (next(one for name, one in adapted.named_parameters() if f"lora_{part}" in name) for part in "AB")
(scaling,) = {one.scaling["default"] for one in adapted.modules() if hasattr(one, "lora_A")}
config = EngineArgs(
    model=f"{folder}/base", dtype="float32", skip_tokenizer_init=True, enforce_eager=True, max_model_len=64,
    enable_lora=True, model_impl="transformers",
).create_engine_config()  # fmt: skip
with set_current_vllm_config(config):
    model = get_model(vllm_config=config)
    worker = LRUCacheWorkerLoRAManager(config, torch.device("cpu"), model.embedding_modules)
    worker.create_lora_manager(model, config)


def served():
    """By how much the router's slots scale B · A of the file."""
    worker.add_adapter(LoRARequest("one", 1, f"{folder}/adapter"))
    gate = model.get_submodule("model.layers.0.mlp.gate")
    product = gate.lora_b_stacked[0][0, 0] @ gate.lora_a_stacked[0][0, 0]
    worker.remove_adapter(1)
    return round(float((product / (b @ a)).mean()), 3)


got = served()
file = Path(folder, "adapter", "adapter_config.json")
said = json.loads(file.read_text())
file.write_text(json.dumps(said | {"alpha_pattern": {"gate": 4}}))
print(f"PEFT's pattern: {said['alpha_pattern']}; with the module's name in its place: {served()}")
report(f"a scaling of {scaling}, as PEFT's model has it", got, got != scaling)
