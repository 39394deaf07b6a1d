"""GLM-4V on the Transformers backend does not start with LoRA: tower and language model have a layer of one name.

The backend fuses the tower's `gate_proj` and `up_proj` into a `gate_up_proj`, and notes that name as packed of the two
(`Base.recursive_replace`). The language model has a `gate_up_proj` of its own, which is one layer. LoRA goes by the
last part of a name: the dummy adapter of the warm-up has two tensors for it (`add_dummy_lora`), and it takes one.
Clause MODEL-6. Releases: 0.33.0.
"""

# ruff: noqa: E402
import os

os.environ |= {"VLLM_TARGET_DEVICE": "cpu", "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_PLUGINS": "", "HF_HUB_OFFLINE": "1"}
os.environ |= {"HUMMING_DISABLE_PARALLEL_BUILD": "1"}  # or importing vLLM starts background builds

import sys
import tempfile
import traceback
from types import SimpleNamespace

import torch
import vllm.platforms
from vllm.platforms.cpu import CpuPlatform

vllm.platforms._current_platform = CpuPlatform()  # the wheel of a machine without a GPU has none

from transformers import Glm4vConfig
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.distributed import init_distributed_environment, initialize_model_parallel
from vllm.engine.arg_utils import EngineArgs
from vllm.lora.request import LoRARequest
from vllm.lora.worker_manager import LRUCacheWorkerLoRAManager
from vllm.model_executor.model_loader import get_model
from vllm.multimodal.processing.context import InputProcessingContext

torch.set_grad_enabled(False)
parts = SimpleNamespace(image_processor=None, video_processor=None)
InputProcessingContext.get_hf_processor = lambda *given, **named: parts  # whose files are not there
folder = tempfile.mkdtemp()
with set_current_vllm_config(VllmConfig()):
    init_distributed_environment(1, 0, f"file://{folder}/rendezvous", 0, backend="gloo")
    initialize_model_parallel(1, 1)


def start(packed):
    """How the start of an engine ends whose model has only ``packed`` of its packed modules, or all."""
    options = EngineArgs(
        model=folder, dtype="float32", skip_tokenizer_init=True, enforce_eager=True, max_model_len=64,
        enable_lora=True, load_format="dummy", model_impl="transformers",
    )  # fmt: skip
    config = options.create_engine_config()
    with set_current_vllm_config(config):
        model = get_model(vllm_config=config)
        found = model.packed_modules_mapping
        model.packed_modules_mapping = {name: own for name, own in found.items() if packed is None or name in packed}
        worker = LRUCacheWorkerLoRAManager(config, torch.device("cpu"), model.embedding_modules)
        worker.create_lora_manager(model, config)
    dummy = LoRARequest("dummy", 1, "dummy")
    try:
        worker.add_dummy_lora(dummy, 8)
        worker.add_adapter(dummy)
    except AssertionError as error:
        return found, f"AssertionError: {traceback.extract_tb(error.__traceback__)[-1].line}"
    return found, "started"


def report(expected, got, present):
    """Ends the script: 1 where the defect is there, 0 where not."""
    print(f"expected: {expected}\ngot:      {got}\n{'PRESENT' if present else 'absent'} in vLLM {vllm.__version__}")
    sys.exit(int(present))


text = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 4, "vocab_size": 128,
    "num_key_value_heads": 4, "max_position_embeddings": 64, "pad_token_id": 0,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]},
}  # fmt: skip
tower = {
    "hidden_size": 64,
    "out_hidden_size": 64,
    "intermediate_size": 96,
    "depth": 1,
    "num_heads": 4,
    "image_size": 28,
}
config = Glm4vConfig(text_config=text, vision_config=tower, architectures=["Glm4vForConditionalGeneration"])
config.save_pretrained(folder)
found, got = start(None)
_, without = start([name for name in found if name != "gate_up_proj"])
print(f"packed: {found}; without gate_up_proj among them: {without}")
assert without == "started", "the name is not why"
report("the engine starts, as its worker's warm-up adds a dummy adapter", got, got != "started")
