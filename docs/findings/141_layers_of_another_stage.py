"""An adapter is refused by a stage of a pipeline that has no layer of some kind that the adapter is of.

Each rank checks the names in a file against those of the modules that it has itself. Jamba has attention in one of
eight layers: of eight stages of its 32 layers four have none, and refuse every adapter of attention. Likewise a stage
without mixtures refuses one of experts, and other hybrids (LFM2-MoE, Qwen3-Next, Qwen3.5) are refused likewise.
Clause MODEL-7. Releases: 0.33.0.
"""

# ruff: noqa: E402
import os

os.environ |= {"VLLM_TARGET_DEVICE": "cpu", "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_PLUGINS": "", "HF_HUB_OFFLINE": "1"}
os.environ |= {"HUMMING_DISABLE_PARALLEL_BUILD": "1"}  # or importing vLLM starts background builds

import sys
import tempfile
from types import SimpleNamespace

import torch
import vllm.platforms
from vllm.platforms.cpu import CpuPlatform

vllm.platforms._current_platform = CpuPlatform()  # the wheel of a machine without a GPU has none

from peft import LoraConfig, get_peft_model
from transformers import JambaConfig, JambaForCausalLM
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.distributed import init_distributed_environment, initialize_model_parallel, parallel_state
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
    """The first stage's half of the model in a directory, and the worker's manager of its adapters."""
    config = EngineArgs(
        model=directory, dtype="float32", skip_tokenizer_init=True, enforce_eager=True, enable_lora=True
    ).create_engine_config()
    # stands in for the first of two stages, which are two processes
    parallel_state._PP = SimpleNamespace(rank_in_group=0, world_size=2, is_first_rank=True, is_last_rank=False)
    config.parallel_config.pipeline_parallel_size = 2
    with set_current_vllm_config(config):
        model = get_model(vllm_config=config)
        worker = LRUCacheWorkerLoRAManager(config, torch.device("cpu"), model.embedding_modules)
        worker.create_lora_manager(model, config)
    return model, worker


def report(expected, got, present):
    """Ends the script: 1 where the defect is there, 0 where not."""
    print(f"expected: {expected}\ngot:      {got}\n{'PRESENT' if present else 'absent'} in vLLM {vllm.__version__}")
    sys.exit(int(present))


small = JambaConfig(
    hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4,
    attn_layer_period=2, attn_layer_offset=1, num_experts=2, expert_layer_period=2, expert_layer_offset=1,
    mamba_dt_rank=4, vocab_size=128, max_position_embeddings=64,
)  # fmt: skip
base = JambaForCausalLM(small)
base.save_pretrained(f"{folder}/base")
asked = LoraConfig(r=1, target_modules=["out_proj", "q_proj"], init_lora_weights=False)
get_peft_model(base, asked).save_pretrained(f"{folder}/adapter")
model, worker = served(f"{folder}/base")
layer = model.model.layers[0].mamba.out_proj


def taken(number):
    """What is said to the adapter, and whether the one layer of this stage that it is of has its B."""
    try:
        worker.add_adapter(LoRARequest("one", number, f"{folder}/adapter"))
    except ValueError as error:
        return f"refused: … {str(error).partition(' but ')[2]}", False
    return "taken", bool(layer.lora_b_stacked[0][0].any())


got, _ = taken(1)
worker._adapter_manager.supported_lora_modules.append("qkv_proj")  # of the other stage's layer
mended, right = taken(2)
report(
    "the stage with layer 0, which is Mamba's, takes an adapter of its out_proj and of layer 1's q_proj",
    f"it is {got}; told of the names of all layers, it is {mended}, and out_proj has it: {right}",
    got.startswith("refused") and right,
)
