"""An adapter of Nemotron-H's router loads and does nothing: routers of experts without a gate are left unwrapped.

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
from transformers import NemotronHConfig, NemotronHForCausalLM
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.distributed import init_distributed_environment, initialize_model_parallel
from vllm.engine.arg_utils import EngineArgs
from vllm.lora.request import LoRARequest
from vllm.lora.worker_manager import LRUCacheWorkerLoRAManager
from vllm.model_executor.layers.fused_moe.config import FusedMoEConfig
from vllm.model_executor.model_loader import get_model
from vllm.model_executor.models import nemotron_h

torch.set_grad_enabled(False)
check = FusedMoEConfig.__post_init__


def checked(config):
    """Without the last thing that is looked at: a CPU has no experts without a gate; they are built, and not run."""
    try:
        check(config)
    except NotImplementedError as error:
        if "is_act_and_mul" not in str(error):
            raise


FusedMoEConfig.__post_init__ = checked
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
        worker = LRUCacheWorkerLoRAManager(config, torch.device("cpu"), getattr(model, "embedding_modules", {}))
        worker.create_lora_manager(model, config)
    return model, worker


def written_to(worker):
    """The layers whose LoRA B is not zero."""
    layers = worker._adapter_manager.modules.items()
    return [name for name, layer in layers if any(b.any() for b in layer.lora_b_stacked)]


def report(expected, got, present):
    """Ends the script: 1 where the defect is there, 0 where not."""
    print(f"expected: {expected}\ngot:      {got}\n{'PRESENT' if present else 'absent'} in vLLM {vllm.__version__}")
    sys.exit(int(present))


small = NemotronHConfig(
    hidden_size=64, intermediate_size=128, moe_intermediate_size=48, moe_shared_expert_intermediate_size=48,
    layers_block_type=["moe"], num_attention_heads=4, num_key_value_heads=4, head_dim=16, mamba_num_heads=8,
    mamba_head_dim=16, n_groups=4, ssm_state_size=16, n_routed_experts=4, num_experts_per_tok=2, vocab_size=128,
    max_position_embeddings=256, chunk_size=16,
)  # fmt: skip
base = NemotronHForCausalLM(small)
config = LoraConfig(r=1, target_modules=[], target_parameters=["mixer.gate.weight"], init_lora_weights=False)
base.save_pretrained(f"{folder}/base")
get_peft_model(base, config).save_pretrained(f"{folder}/adapter")
model, worker = served(f"{folder}/base")
try:
    worker.add_adapter(LoRARequest("one", 1, f"{folder}/adapter"))
except Exception as error:
    report("an error that names the router", f"{type(error).__name__}: {error}", "gate" not in str(error))
used = written_to(worker)
nemotron_h.NemotronHForCausalLM.is_non_gated_moe = False  # for which LoRA leaves the router of the model alone
model, worker = served(f"{folder}/base")
worker.add_adapter(LoRARequest("one", 1, f"{folder}/adapter"))
replaced = written_to(worker)
assert replaced or used, "the flag is not why"
report(
    "the LoRA B of the router is not zero, or an error that names the router",
    f"LoRA B is not zero in {used}; of a model that does not say is_non_gated_moe it is not in {replaced}",
    not used,
)
