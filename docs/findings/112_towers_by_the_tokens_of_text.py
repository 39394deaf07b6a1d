"""LoRA on Whisper's encoder goes by the decoder's tokens.

A class that does not say which part of it is the language model (`get_mm_mapping`) is taken for one that has no other
parts: LoRA wraps the encoder's layers with the decoder's token mapping. A batch of three tokens maps three rows, and
an encoder has a row for each frame. On a CPU the first layer ends in an error of sizes; on a GPU the kernels go over
three of the rows (`LoRAKernelMeta`, which is asked here), and the other frames get no adapter.
BAGEL, ERNIE 4.5 VL and Inkling have no `get_mm_mapping` either; there it is the rows of images.
Clause MODEL-10. Releases: 0.33.0.
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
from transformers import WhisperConfig, WhisperForConditionalGeneration
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.distributed import init_distributed_environment, initialize_model_parallel
from vllm.engine.arg_utils import EngineArgs
from vllm.lora.layers import LoRAMapping
from vllm.lora.ops.triton_ops.lora_kernel_metadata import LoRAKernelMeta
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


FRAMES, TOKENS = 8, 3
small = WhisperConfig(
    vocab_size=128, d_model=64, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4,
    decoder_attention_heads=4, encoder_ffn_dim=96, decoder_ffn_dim=96, num_mel_bins=16, max_source_positions=FRAMES,
    max_target_positions=64, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
)  # fmt: skip
base = WhisperForConditionalGeneration(small)
base.save_pretrained(f"{folder}/base")
config = LoraConfig(r=1, target_modules=["encoder.layers.0.fc1"], init_lora_weights=False)
get_peft_model(base, config).save_pretrained(f"{folder}/adapter")
model, worker = served(f"{folder}/base")

# What a worker does with a step: the mapping is made of the scheduled tokens, then the encoder runs.
mapping = LoRAMapping((1,) * TOKENS, (1,), is_prefill=True)
worker.set_active_adapters({LoRARequest("one", 1, f"{folder}/adapter")}, mapping)
layer, frames = model.model.encoder.layers[0].mlp.fc1, torch.randn(FRAMES, 64)
without = layer.base_layer(frames)[0]
try:
    changed = int((layer(frames)[0] != without).any(-1).sum())
    got = f"{changed} of them"
except RuntimeError as error:
    changed, got = 0, f"RuntimeError: {error}"
kernels = LoRAKernelMeta.make(1, 64, "cpu")
kernels.prepare_tensors(layer.punica_wrapper.token_lora_indices)
report(
    f"an adapter of the encoder's fc1 changes what it gives for all {FRAMES} frames of its request",
    f"{got}; a GPU's kernels go over {int(kernels.num_tokens_per_lora.sum())} rows",
    changed != FRAMES,
)
