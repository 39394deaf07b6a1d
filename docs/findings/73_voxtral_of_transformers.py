"""An adapter of Voxtral, trained with transformers and PEFT, loads and does nothing.

PEFT writes `model.language_model.layers.0.self_attn.q_proj`, as transformers' class has it, and vLLM's is
`language_model.model.layers.0.self_attn.q_proj`. Its class declares LoRA support and has no mapper, as published
weights have Mistral's names; names are checked by their last part only, so that nothing is said. With a mapper, as
other classes have it, the adapter is served.
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
from transformers import VoxtralConfig, VoxtralForConditionalGeneration
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.distributed import init_distributed_environment, initialize_model_parallel
from vllm.engine.arg_utils import EngineArgs
from vllm.lora.request import LoRARequest
from vllm.lora.worker_manager import LRUCacheWorkerLoRAManager
from vllm.model_executor.model_loader import get_model
from vllm.model_executor.models.utils import WeightsMapper
from vllm.model_executor.models.voxtral import VoxtralForConditionalGeneration as Served

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


sizes = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 1, "num_attention_heads": 4}
sizes |= {"vocab_size": 128, "global_log_mel_max": 1.5}
audio = {"num_mel_bins": 16, "max_source_positions": 64, "downsample_factor": 4, "hop_length": 160, "window_size": 400}
text = {"num_key_value_heads": 4, "head_dim": 16, "architectures": ["MistralForCausalLM"]}
small = VoxtralConfig(
    audio_config={"model_type": "voxtral_encoder", "sampling_rate": 16000, **sizes, **audio},
    text_config={"model_type": "llama", **sizes, **text},
    architectures=["VoxtralForConditionalGeneration"],
)
small.save_pretrained(f"{folder}/base")
trained = LoraConfig(r=1, target_modules=r".*language_model.*q_proj", init_lora_weights=False)
get_peft_model(VoxtralForConditionalGeneration(small), trained).save_pretrained(f"{folder}/adapter")


def added():
    """The largest number that the adapter has in its layer's slot."""
    model, worker = served(f"{folder}/base")
    worker.add_adapter(LoRARequest("one", 1, f"{folder}/adapter"))
    layer = model.language_model.model.layers[0].self_attn.qkv_proj
    return max(float(one.abs().max()) for one in layer.lora_b_stacked)


got = added()
Served.hf_to_vllm_mapper = WeightsMapper(orig_to_new_prefix={"model.language_model.": "language_model.model."})
mended = added()
report(
    "an adapter of the language model's q_proj is in the slot of its layer, or is refused by name",
    f"it loads, and the largest number there is {got:g}; with a mapper {mended:g}",
    not got and mended > 0,
)
