"""An adapter of Qwen3-VL, trained as embedding models are, does nothing in its language model where that is served.

transformers' class without a head, which AutoModel makes, has `language_model.layers.0.self_attn.q_proj`. The same
checkpoint served for embeddings has `language_model.model.layers.0.self_attn.q_proj`. Of a model of text alone vLLM
looks for names without `model.`, and not where that is behind a prefix; its mapper tells names with a head only. With
a mapper that tells this one the adapter is served. So it is with Qwen2-VL, Gemma 3, Mistral 3, InternVL and PaliGemma.
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
from transformers import Qwen3VLConfig, Qwen3VLModel
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.distributed import init_distributed_environment, initialize_model_parallel
from vllm.engine.arg_utils import EngineArgs
from vllm.lora.request import LoRARequest
from vllm.lora.worker_manager import LRUCacheWorkerLoRAManager
from vllm.model_executor.model_loader import get_model
from vllm.model_executor.models.qwen3_vl import Qwen3VLForConditionalGeneration
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
        load_format="dummy",
        dtype="float32",
        skip_tokenizer_init=True,
        enforce_eager=True,
        max_model_len=64,
        enable_lora=True,
        runner="pooling",
        convert="embed",
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


same = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}
text = {"num_hidden_layers": 1, "num_key_value_heads": 4, "head_dim": 16, "vocab_size": 128, "rope_parameters": {
    "rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 2, 2]}}  # fmt: skip
vision = {"depth": 1, "num_heads": 4, "out_hidden_size": 64, "deepstack_visual_indexes": []}
small = Qwen3VLConfig(
    text_config={**same, **text, "max_position_embeddings": 64},
    vision_config={**same, **vision, "num_position_embeddings": 16},
    architectures=["Qwen3VLForConditionalGeneration"],
)
small.save_pretrained(f"{folder}/base")
trained = LoraConfig(r=1, target_modules=["q_proj"], task_type="FEATURE_EXTRACTION", init_lora_weights=False)
get_peft_model(Qwen3VLModel(small), trained).save_pretrained(f"{folder}/adapter")


def added():
    """The largest number that the adapter has in its layer's slot."""
    model, worker = served(f"{folder}/base")
    worker.add_adapter(LoRARequest("one", 1, f"{folder}/adapter"))
    layer = model.language_model.model.layers[0].self_attn.qkv_proj
    return max(float(one.abs().max()) for one in layer.lora_b_stacked)


got = added()
mapper = WeightsMapper(orig_to_new_prefix={"language_model.": "language_model.model."})
Qwen3VLForConditionalGeneration.hf_to_vllm_mapper = mapper
mended = added()
report(
    "an adapter of the language model's q_proj is in the slot of its layer, or is refused by name",
    f"it loads, and the largest number there is {got:g}; with a mapper that tells its name {mended:g}",
    not got and mended > 0,
)
