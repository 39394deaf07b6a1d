"""An adapter of the LM head of Clef-Flash loads and does nothing.

Clef generates nothing: its joint head embeds options with the LM head's weight, which it looks up by
`VocabParallelEmbedding.forward(self.language_model.lm_head, ids)`. LoRA on the LM head is on the logits processor,
which is never asked. Clef-Omni likewise.
Clause MODEL-1. Releases: 0.33.0.
"""

# ruff: noqa: E402
import json
import os

os.environ |= {"VLLM_TARGET_DEVICE": "cpu", "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_PLUGINS": "", "HF_HUB_OFFLINE": "1"}
os.environ |= {"HUMMING_DISABLE_PARALLEL_BUILD": "1"}  # or importing vLLM starts background builds

import sys
import tempfile
from pathlib import Path

import torch
import vllm.platforms
from vllm.platforms.cpu import CpuPlatform

vllm.platforms._current_platform = CpuPlatform()  # the wheel of a machine without a GPU has none

from safetensors.torch import save_file
from transformers import Qwen3_5Config
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
    """The model in a directory, and the worker's manager of its adapters."""
    options = EngineArgs(
        model=directory,
        load_format="dummy",
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


text = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 4, "head_dim": 16,
    "num_key_value_heads": 2, "vocab_size": 128, "layer_types": ["full_attention"], "max_position_embeddings": 128,
    "tie_word_embeddings": False,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 1.0,
                        "mrope_section": [2, 3, 3]},
}  # fmt: skip
vision = {"hidden_size": 64, "depth": 1, "num_heads": 4, "out_hidden_size": 64, "num_position_embeddings": 16}
head = {"hidden_size": 64, "width": 16, "routing_layers": 0, "layers": 0, "heads": 2, "feedforward": 32}
config = Qwen3_5Config(text_config=text, vision_config=vision, tie_word_embeddings=False).to_dict()
config |= {"architectures": ["ClefFlashForJointSchema"], "joint_head_config": head}
Path(folder, "base").mkdir()
Path(folder, "base/config.json").write_text(json.dumps(config))
Path(folder, "adapter").mkdir()
told = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": ["lm_head"], "bias": "none"}
Path(folder, "adapter/adapter_config.json").write_text(json.dumps(told))
lora_a, lora_b = torch.ones(1, 64), torch.ones(128, 1)
factors = {"base_model.model.lm_head.lora_A.weight": lora_a, "base_model.model.lm_head.lora_B.weight": lora_b}
save_file(factors, f"{folder}/adapter/adapter_model.safetensors")

model, worker = served(f"{folder}/base")
ids = torch.arange(8)
before = model._embed_lexical(ids).clone()
worker.add_adapter(LoRARequest("one", 1, f"{folder}/adapter"))
worker.set_active_adapters({LoRARequest("one", 1, f"{folder}/adapter")}, LoRAMapping((1,) * 8, (1,) * 8))
in_slot = float(model.language_model.logits_processor.lora_b_stacked.abs().max())
got = model._embed_lexical(ids) - before
report(
    f"options are embedded with the rows of the merged LM head, which are {float((lora_b @ lora_a).max()):g} more",
    f"it loads (the slot of the logits processor has {in_slot:g}), and the rows are {float(got.abs().max()):g} more",
    in_slot == 1 and not got.any(),
)
