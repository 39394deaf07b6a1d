"""An adapter of OpsColQwen3's language model loads and does nothing.

Its checkpoints have no outer prefix (`language_model.layers.`), and `load_weights` puts `model.` before every name, so
that the mapper knows them. LoRA asks the mapper alone, which leaves `language_model.layers.` as it is, where the model
has `language_model.model.layers.`. With a rule for that prefix the adapter is served.
Clause MODEL-1. Releases: 0.33.0.
"""

# ruff: noqa: E402
import json
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
from transformers import Qwen3VLConfig, Qwen3VLModel
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.distributed import init_distributed_environment, initialize_model_parallel
from vllm.engine.arg_utils import EngineArgs
from vllm.lora.request import LoRARequest
from vllm.lora.worker_manager import LRUCacheWorkerLoRAManager
from vllm.model_executor.model_loader import get_model
from vllm.model_executor.models.colqwen3 import ColQwen3Model, ColQwen3ProcessingInfo
from vllm.model_executor.models.utils import WeightsMapper

torch.set_grad_enabled(False)
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
        worker = LRUCacheWorkerLoRAManager(config, torch.device("cpu"), model.embedding_modules)
        worker.create_lora_manager(model, config)
    return model, worker


def report(expected, got, present):
    """Ends the script: 1 where the defect is there, 0 where not."""
    print(f"expected: {expected}\ngot:      {got}\n{'PRESENT' if present else 'absent'} in vLLM {vllm.__version__}")
    sys.exit(int(present))


ColQwen3ProcessingInfo.get_supported_mm_limits = lambda self: {"image": None}  # no processor is in the folder
text = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 4, "head_dim": 16,
    "num_key_value_heads": 2, "vocab_size": 128, "tie_word_embeddings": True,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]},
}  # fmt: skip
vision = {"hidden_size": 64, "depth": 1, "num_heads": 4, "out_hidden_size": 64, "deepstack_visual_indexes": []}
base = Qwen3VLModel(Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True))
base.save_pretrained(f"{folder}/base")
with open(f"{folder}/base/config.json") as file:
    config = json.load(file) | {"model_type": "ops_colqwen3", "architectures": ["OpsColQwen3Model"]}
with open(f"{folder}/base/config.json", "w") as file:
    json.dump(config, file)
adapted = get_peft_model(base, LoraConfig(r=1, target_modules=["q_proj"], init_lora_weights=False))
adapted.save_pretrained(f"{folder}/adapter")


def added():
    """The largest number that the adapter has in the slot of its layer."""
    model, worker = served(f"{folder}/base")
    worker.add_adapter(LoRARequest("one", 1, f"{folder}/adapter"))
    return float(model.language_model.model.layers[0].self_attn.qkv_proj.lora_b_stacked[0].abs().max())


got = added()
rule = WeightsMapper(orig_to_new_prefix={"language_model.layers.": "language_model.model.layers."})
ColQwen3Model.hf_to_vllm_mapper = rule | ColQwen3Model.hf_to_vllm_mapper
mended = added()
report(
    "B of language_model.layers.0.self_attn.q_proj is in the slot of its layer, or the adapter is refused by name",
    f"it loads, and the largest number there is {got:g}; with a rule for that prefix {mended:g}",
    got == 0 < mended,
)
