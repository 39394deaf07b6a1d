"""An adapter of the convolutions of LFM2-VL's language model does nothing.

vLLM's LFM2 has `short_conv` where checkpoints have `conv`, which its own mapper tells; LoRA asks the class around it,
whose mapper has not that name. LFM2 itself is served.
Clause MODEL-1. Releases: 0.33.0.
"""

# ruff: noqa: E402
import os

os.environ |= {"VLLM_TARGET_DEVICE": "cpu", "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_PLUGINS": "", "HF_HUB_OFFLINE": "1"}
os.environ |= {"HUMMING_DISABLE_PARALLEL_BUILD": "1"}  # or importing vLLM starts background builds

import re
import sys
import tempfile

import torch
import vllm.platforms
from vllm.platforms.cpu import CpuPlatform

vllm.platforms._current_platform = CpuPlatform()  # the wheel of a machine without a GPU has none

from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import Lfm2VlConfig, Lfm2VlForConditionalGeneration
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.distributed import init_distributed_environment, initialize_model_parallel
from vllm.engine.arg_utils import EngineArgs
from vllm.lora.request import LoRARequest
from vllm.lora.worker_manager import LRUCacheWorkerLoRAManager
from vllm.model_executor.model_loader import get_model
from vllm.model_executor.models.utils import WeightsMapper

torch.set_grad_enabled(False)
folder = tempfile.mkdtemp()
with set_current_vllm_config(VllmConfig()):
    init_distributed_environment(1, 0, f"file://{folder}/rendezvous", 0, backend="gloo")
    initialize_model_parallel(1, 1)


def served(directory):
    """The model in a directory, and the worker's manager of its adapters."""
    options = EngineArgs(
        model=directory, dtype="float32", skip_tokenizer_init=True, enforce_eager=True, enable_lora=True
    )
    config = options.create_engine_config()
    with set_current_vllm_config(config):
        model = get_model(vllm_config=config)
        worker = LRUCacheWorkerLoRAManager(config, torch.device("cpu"), getattr(model, "embedding_modules", {}))
        worker.create_lora_manager(model, config)
    return model, worker


def report(expected, got, present):
    """Ends the script: 1 where the defect is there, 0 where not."""
    print(f"expected: {expected}\ngot:      {got}\n{'PRESENT' if present else 'absent'} in vLLM {vllm.__version__}")
    sys.exit(int(present))


text = {
    "model_type": "lfm2", "hidden_size": 64, "intermediate_size": 128, "block_ff_dim": 128, "num_hidden_layers": 2,
    "block_dim": 64, "conv_dim": 64, "conv_dim_out": 64, "num_attention_heads": 4, "num_key_value_heads": 4,
    "vocab_size": 128, "max_position_embeddings": 64, "layer_types": ["conv", "full_attention"],
    "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": True,
}  # fmt: skip
tower = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 96,
         "num_patches": 16, "patch_size": 14, "vision_use_head": False}  # fmt: skip
small = Lfm2VlConfig(text_config=text, vision_config=tower, image_token_id=127)
base = Lfm2VlForConditionalGeneration(small)
base.save_pretrained(f"{folder}/base")
tensors = load_file(f"{folder}/base/model.safetensors")  # published files have one more part in the tower's names
tensors = {re.sub(r"vision_tower\.(?!vision_model)", "vision_tower.vision_model.", name): one
           for name, one in tensors.items()}  # fmt: skip
save_file(tensors, f"{folder}/base/model.safetensors", {"format": "pt"})
asked = LoraConfig(r=1, target_modules=r".*language_model.*conv\.in_proj", init_lora_weights=False)
get_peft_model(base, asked).save_pretrained(f"{folder}/adapter")
model, worker = served(f"{folder}/base")


def written():
    """The layers whose LoRA B is not zero, the adapter being loaded."""
    worker.remove_adapter(1)
    worker.add_adapter(LoRARequest("one", 1, f"{folder}/adapter"))
    layers = worker._adapter_manager.modules.items()
    return [name for name, layer in layers if any(b.any() for b in getattr(layer, "lora_b_stacked", ()))]


try:
    got = written()
except ValueError as error:
    report("an error that names in_proj", error, "in_proj" not in str(error))
model.hf_to_vllm_mapper = model.hf_to_vllm_mapper | WeightsMapper(orig_to_new_substr={".conv.": ".short_conv."})
mended = written()
assert mended or got, "that the class around it has no such name is not why"
report(
    "the LoRA B of the language model's in_proj is not zero, or an error that names it",
    f"LoRA B is not zero in {got}; with the language model's own name in the mapper, in {mended}",
    not got,
)
