"""An adapter of the language model of Ernie 4.5 VL loads and does nothing, as transformers 5 names it.

It is `model.language_model.layers.` there, `model.layers.` on disk; vLLM's rule for `model.` makes of it
`language_model.model.language_model.layers.`. With a rule for `model.language_model.` the adapter is served.
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
from transformers import Ernie4_5_VLMoeConfig, Ernie4_5_VLMoeForConditionalGeneration
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.distributed import init_distributed_environment, initialize_model_parallel
from vllm.engine.arg_utils import EngineArgs
from vllm.lora.request import LoRARequest
from vllm.lora.worker_manager import LRUCacheWorkerLoRAManager
from vllm.model_executor.model_loader import get_model
from vllm.model_executor.models.ernie45_vl import Ernie4_5_VLMoeForConditionalGeneration as Served
from vllm.model_executor.models.ernie45_vl import WeightsMapper

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
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 4, "vocab_size": 128,
    "num_key_value_heads": 2, "mlp_layer_types": ["dense"], "max_position_embeddings": 128,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [3, 3, 2]},
}  # fmt: skip
published = {  # as those files are, which have no configuration of the language model inside
    **text, "hidden_act": "silu", "rms_norm_eps": 1e-5, "freq_allocation": 2, "moe_num_experts": [4, 4],
    "moe_layer_start_index": [1, 1], "moe_layer_end_index": [1, 1], "pixel_hidden_size": 64, "spatial_conv_size": 2,
    "temporal_conv_size": 2, "use_temporal_conv": True, "im_patch_id": 100,
}  # fmt: skip
vision = {"hidden_size": 64, "embed_dim": 64, "depth": 0, "num_heads": 4, "mlp_ratio": 2}
base = Ernie4_5_VLMoeForConditionalGeneration(Ernie4_5_VLMoeConfig(text_config=text, vision_config=vision))
base.config.update(published | {"architectures": ["Ernie4_5_VLMoeForConditionalGeneration"]})
base.config.save_pretrained(f"{folder}/base")
adapted = get_peft_model(base, LoraConfig(r=1, target_modules=["q_proj"], init_lora_weights=False))
adapted.save_pretrained(f"{folder}/adapter")


def added():
    """The largest number that the adapter has in the slot of its layer."""
    model, worker = served(f"{folder}/base")
    worker.add_adapter(LoRARequest("one", 1, f"{folder}/adapter"))
    return float(model.language_model.model.layers[0].self_attn.qkv_proj.lora_b_stacked[0].abs().max())


got = added()
rule = WeightsMapper(orig_to_new_prefix={"model.language_model.": "language_model.model."})
Served.hf_to_vllm_mapper = rule | Served.hf_to_vllm_mapper
mended = added()
report(
    "B of model.language_model.layers.0.self_attn.q_proj is in its layer's slot, or the adapter is refused by name",
    f"it loads, and the largest number there is {got:g}; with a rule for that prefix {mended:g}",
    got == 0 < mended,
)
