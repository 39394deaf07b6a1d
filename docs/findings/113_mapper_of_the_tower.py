"""An adapter of fc1 or fc2 in Ultravox's audio tower loads and does nothing.

The layers are `audio_tower.layers.#.mlp.fc1`; that checkpoints have no `mlp.` is told by a mapper of the tower
(`_WHISPER_ENCODER_MAPPER`), and LoRA asks the class around it, whose mapper does not know. The engine was started with
LoRA on towers, which the class declares. With these two rules in its mapper the adapter is served.
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

from safetensors.torch import save_file
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.distributed import init_distributed_environment, initialize_model_parallel
from vllm.engine.arg_utils import EngineArgs
from vllm.lora import model_manager
from vllm.lora.request import LoRARequest
from vllm.lora.worker_manager import LRUCacheWorkerLoRAManager
from vllm.model_executor.model_loader import get_model
from vllm.model_executor.models import ultravox

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
        enable_tower_connector_lora=True,
    )
    config = options.create_engine_config()
    with set_current_vllm_config(config):
        model = get_model(vllm_config=config)
        worker = LRUCacheWorkerLoRAManager(config, torch.device("cpu"), model.embedding_modules)
        worker.create_lora_manager(model, config)
    return model, worker


class Room:
    """In place of vLLM's budget of sounds, which asks for a processor's files; LoRA asks it for this much."""

    mm_max_items_per_prompt, mm_max_toks_per_item = {"audio": 1}, {"audio": 64}

    def __init__(self, config, registry):
        pass

    def get_encoder_budget(self):
        return 64


model_manager.MultiModalBudget = Room


def report(expected, got, present):
    """Ends the script: 1 where the defect is there, 0 where not."""
    print(f"expected: {expected}\ngot:      {got}\n{'PRESENT' if present else 'absent'} in vLLM {vllm.__version__}")
    sys.exit(int(present))


small = {
    "model_type": "ultravox", "architectures": ["UltravoxModel"], "hidden_size": 64, "vocab_size": 128,
    "stack_factor": 8, "projector_act": "swiglu", "projector_ln_mid": True, "audio_token_index": 127,
    "audio_config": {"model_type": "whisper", "d_model": 64, "encoder_layers": 1, "encoder_attention_heads": 4,
                     "encoder_ffn_dim": 96, "num_mel_bins": 16, "max_source_positions": 64},
    "text_config": {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "vocab_size": 128,
                    "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 4,
                    "max_position_embeddings": 64},
}  # fmt: skip
os.makedirs(f"{folder}/base")
with open(f"{folder}/base/config.json", "w") as file:
    json.dump(small, file)
os.makedirs(f"{folder}/adapter")
told = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": ["fc1"], "bias": "none"}
with open(f"{folder}/adapter/adapter_config.json", "w") as file:
    json.dump(told, file)
key = "base_model.model.audio_tower.layers.0.fc1"
factors = {f"{key}.lora_A.weight": torch.ones(1, 64), f"{key}.lora_B.weight": torch.ones(96, 1)}
save_file(factors, f"{folder}/adapter/adapter_model.safetensors")


def added():
    """The largest number that the adapter has in its layer's slot."""
    model, worker = served(f"{folder}/base")
    worker.add_adapter(LoRARequest("one", 1, f"{folder}/adapter"))
    return float(model.audio_tower.layers[0].mlp.fc1.lora_b_stacked[0].abs().max())


ultravox.UltravoxProcessingInfo.get_supported_mm_limits = lambda self: {"audio": None}  # no processor is in the folder
got = added()
ultravox.UltravoxModel.hf_to_vllm_mapper.orig_to_new_substr.update({".fc1.": ".mlp.fc1.", ".fc2.": ".mlp.fc2."})
mended = added()
report(
    "an adapter of the checkpoint's audio_tower.layers.0.fc1 is in the slot of its layer, or is refused by name",
    f"it loads, and the largest number there is {got:g}; with the tower's rules in the class's mapper {mended:g}",
    not got and mended == 1,
)
