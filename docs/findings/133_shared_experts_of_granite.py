"""An adapter of the shared experts' input_linear of GraniteMoeShared loads and does nothing: it is left unwrapped.

The layer has two outputs that the checkpoint has in one tensor; LoRA wraps such a layer where the class declares it
packed of itself, as GraniteMoeHybrid does. The model type has no shared experts by default, published models have.
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
from transformers import GraniteMoeSharedConfig, GraniteMoeSharedForCausalLM
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.distributed import init_distributed_environment, initialize_model_parallel
from vllm.engine.arg_utils import EngineArgs
from vllm.lora.request import LoRARequest
from vllm.lora.worker_manager import LRUCacheWorkerLoRAManager
from vllm.model_executor.model_loader import get_model
from vllm.model_executor.models import granitemoeshared as granite

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


small = GraniteMoeSharedConfig(
    hidden_size=64, intermediate_size=48, shared_intermediate_size=48, num_hidden_layers=1, num_attention_heads=4,
    num_key_value_heads=4, num_local_experts=4, num_experts_per_tok=2, vocab_size=128, max_position_embeddings=64,
)  # fmt: skip
base = GraniteMoeSharedForCausalLM(small)
base.save_pretrained(f"{folder}/base")
adapted = get_peft_model(base, LoraConfig(r=1, target_modules=["input_linear"], init_lora_weights=False))
adapted.save_pretrained(f"{folder}/adapter")


def written():
    """The layers whose LoRA B is not zero, the adapter being loaded."""
    worker = served(f"{folder}/base")[1]
    worker.add_adapter(LoRARequest("one", 1, f"{folder}/adapter"))
    layers = worker._adapter_manager.modules.items()
    return [name for name, layer in layers if any(b.any() for b in getattr(layer, "lora_b_stacked", ()))]


try:
    got = written()
except ValueError as error:
    report("an error that names input_linear", error, "input_linear" not in str(error))
granite.GraniteMoeSharedForCausalLM.packed_modules_mapping |= {"input_linear": ["input_linear"]}
mended = written()
assert mended or got, "that nothing declares it is not why"
report(
    "the LoRA B of shared_mlp.input_linear is not zero, or an error that names it",
    f"LoRA B is not zero in {got}; once the class declares that it is packed of itself, in {mended}",
    not got,
)
