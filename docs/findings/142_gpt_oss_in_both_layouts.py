"""An adapter of GPT-OSS's stacked experts is halved wrongly where it is a classifier and both layouts are taken.

With `enable_mixed_moe_lora_format` an adapter of stacked experts is parted into gate and up. GPT-OSS's rows alternate,
which LoRA takes for so where the configuration's architecture is called GptOssForCausalLM; of
GptOssForSequenceClassification, and of GptOssModel, gate gets the first half of the rows, on one rank already.
Clause MODEL-2. Releases: 0.33.0.
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
from transformers import GptOssConfig, GptOssForSequenceClassification
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.distributed import init_distributed_environment, initialize_model_parallel
from vllm.engine.arg_utils import EngineArgs
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
    config = EngineArgs(
        model=directory, dtype="float32", skip_tokenizer_init=True, enforce_eager=True, max_model_len=64,
        enable_lora=True, enable_mixed_moe_lora_format=True,
    ).create_engine_config()  # fmt: skip
    with set_current_vllm_config(config):
        model = get_model(vllm_config=config)
        worker = LRUCacheWorkerLoRAManager(config, torch.device("cpu"), model.embedding_modules)
        worker.create_lora_manager(model, config)
    return model, worker


def report(expected, got, present):
    """Ends the script: 1 where the defect is there, 0 where not."""
    print(f"expected: {expected}\ngot:      {got}\n{'PRESENT' if present else 'absent'} in vLLM {vllm.__version__}")
    sys.exit(int(present))


small = GptOssConfig(
    hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=4,
    head_dim=16, num_local_experts=4, num_experts_per_tok=2, vocab_size=128, max_position_embeddings=64,
    layer_types=["full_attention"], pad_token_id=0, eos_token_id=1,
)  # fmt: skip
base = GptOssForSequenceClassification(small)
base.save_pretrained(f"{folder}/base")
experts = ["experts.gate_up_proj", "experts.down_proj"]
adapted = get_peft_model(base, LoraConfig(r=1, target_parameters=experts, init_lora_weights=False))
adapted.save_pretrained(f"{folder}/adapter")
adapted.merge_and_unload().save_pretrained(f"{folder}/merged")
model, worker = served(f"{folder}/base")
layer = model.model.layers[0].mlp.experts
(merged,) = [one for name, one in served(f"{folder}/merged")[0].named_parameters() if name.endswith("w13_weight")]
right = merged - next(one for name, one in model.named_parameters() if name.endswith("w13_weight"))


def wrong_rows(number):
    """The rows of the first expert to which the adapter adds what the merged checkpoint does not have."""
    worker.add_adapter(LoRARequest("one", number, f"{folder}/adapter", is_3d_lora_weight=True))
    slot = worker._adapter_manager.lora_index_to_id.index(number)
    slots = zip(layer.w13_lora_a_stacked, layer.w13_lora_b_stacked, strict=True)
    gate, up = (b[slot, 0] @ a[slot, 0] for a, b in slots)
    got = torch.stack((gate, up), 1).flatten(0, 1)  # as kernels put both into this model's rows (LoRAExpertsMixin)
    worker.remove_adapter(number)
    return [row for row in range(len(got)) if not torch.allclose(got[row], right[0, row], atol=1e-5)]


wrong = wrong_rows(1)
model.config.architectures = ["GptOssForCausalLM"]
undone = wrong_rows(2)
report(
    "B · A of gate and up of the first expert is what the merged checkpoint adds to its rows",
    f"{len(wrong)} of {right.shape[1]} rows are not; told that it is GptOssForCausalLM, {len(undone)}",
    bool(wrong) and not undone,
)
