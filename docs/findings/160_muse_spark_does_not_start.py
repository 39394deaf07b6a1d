"""Muse Spark declares LoRA and does not start with it.

Its class has `SupportsLoRA`, and every layer of routed experts raises while it is built as soon as LoRA is on,
whatever an adapter is of: `validate_deployment` of `muse_moe_runner.py` asks `moe_config.is_lora_enabled`, on all
GPUs. Only a model none of whose layers has experts starts. (A CPU lacks kernels for those without LoRA, too.)
Clause MODEL-6. Releases: 0.33.0.
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

from transformers import MuseSparkConfig
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.distributed import init_distributed_environment, initialize_model_parallel
from vllm.engine.arg_utils import EngineArgs
from vllm.model_executor.model_loader import get_model
from vllm.model_executor.models.interfaces import supports_lora
from vllm.models.muse_spark import MuseSparkForConditionalGeneration

torch.set_grad_enabled(False)
folder = tempfile.mkdtemp()
with set_current_vllm_config(VllmConfig()):
    init_distributed_environment(1, 0, f"file://{folder}/rendezvous", 0, backend="gloo")
    initialize_model_parallel(1, 1)


def started(kind, lora):
    """How a model whose layers are of this kind starts."""
    text = {
        "hidden_size": 64, "intermediate_size": 128, "moe_intermediate_size": 48, "moe_hidden_size": 48,
        "head_dim": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 128,
        "num_local_experts": 4, "num_experts_per_tok": 2, "num_shared_experts": 0, "mlp_layer_types": [kind] * 2,
        "layer_types": ["sliding_attention", "full_attention"], "layer_rope_theta": [5e5, 0], "sliding_window": 32,
        "max_position_embeddings": 256, "pad_token_id": None, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    vision = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    vision["layer_types"] = ["window_attention", "full_attention"]
    audio = {"num_hidden_layers": 2, "hidden_sizes": [16, 32], "depths": [1, 1], "patch_sizes": [16, 6]}
    audio["out_hidden_size"] = 64
    config = MuseSparkConfig(text_config=text, vision_config=vision, audio_config=audio, out_hidden_size=256)
    config.projector_hidden_size = 64
    config.update({"architectures": ["MuseSparkForConditionalGeneration"]})
    config.save_pretrained(f"{folder}/{kind}")
    options = EngineArgs(
        model=f"{folder}/{kind}", load_format="dummy", dtype="float32", skip_tokenizer_init=True, enforce_eager=True,
        max_model_len=64, enable_lora=lora,
    ).create_engine_config()  # fmt: skip
    try:
        with set_current_vllm_config(options):
            get_model(vllm_config=options)
    except NotImplementedError as error:
        return str(error)
    return "it starts"


def report(expected, got, present):
    """Ends the script: 1 where the defect is there, 0 where not."""
    print(f"expected: {expected}\ngot:      {got}\n{'PRESENT' if present else 'absent'} in vLLM {vllm.__version__}")
    sys.exit(int(present))


print(f"declares LoRA:          {supports_lora(MuseSparkForConditionalGeneration)}")
print(f"without experts, LoRA:  {started('dense', lora=True)}")
print(f"with experts, no LoRA:  {started('sparse', lora=False)}")  # what this machine lacks, and no word of LoRA
said = started("sparse", lora=True)
report("the engine starts with LoRA, as its class declares it", said, "does not support MoE LoRA" in said)
