"""An adapter of the attention of InternVL's language model does nothing where that is GPT-OSS.

vLLM's GPT-OSS has `attn` where checkpoints have `self_attn`, which its own mapper tells; LoRA asks the class around
it, InternVL's, whose mapper is made for language models that keep their names. Published: InternVL3.5-GPT-OSS-20B.
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
from transformers import InternVLConfig, InternVLForConditionalGeneration
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
    "model_type": "gpt_oss", "hidden_size": 64, "intermediate_size": 48, "num_hidden_layers": 1, "head_dim": 16,
    "num_attention_heads": 4, "num_key_value_heads": 4, "num_local_experts": 4, "num_experts_per_tok": 2,
    "vocab_size": 128, "max_position_embeddings": 64, "layer_types": ["full_attention"],
}  # fmt: skip
tower = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 96}
small = InternVLConfig(text_config=text, vision_config=tower, image_token_id=127, tie_word_embeddings=False)
base = InternVLForConditionalGeneration(small)
base.save_pretrained(f"{folder}/base")
asked = LoraConfig(r=1, target_modules=r".*language_model.*\.o_proj", init_lora_weights=False)
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
    report("an error that names o_proj", error, "o_proj" not in str(error))
model.hf_to_vllm_mapper = model.hf_to_vllm_mapper | WeightsMapper(orig_to_new_substr={".self_attn.": ".attn."})
mended = written()
assert mended or got, "that the class around it has no such name is not why"
report(
    "the LoRA B of the language model's o_proj is not zero, or an error that names it",
    f"LoRA B is not zero in {got}; with the language model's own name in the mapper, in {mended}",
    not got,
)
