"""An adapter of GPT-OSS's experts is cut wrongly over ranks where GPT-OSS is a classifier.

Its gate and up rows are interleaved, which LoRA takes for so where the configuration's architecture is called
GptOssForCausalLM. vLLM serves GptOssForSequenceClassification, and GptOssModel as an embedding model, with the same
layers, and cuts the rows as if gate and up were halves. Under the first name the same layer is right.
Clause MODEL-7. Releases: 0.33.0.
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
from vllm.distributed import init_distributed_environment, initialize_model_parallel, parallel_state
from vllm.engine.arg_utils import EngineArgs
from vllm.lora.request import LoRARequest
from vllm.lora.worker_manager import LRUCacheWorkerLoRAManager
from vllm.model_executor.model_loader import get_model

torch.set_grad_enabled(False)


class Group:
    """Stands in for rank 0 of the tensor-parallel group; loading asks the others for nothing."""

    world_size, rank_in_group, ranks = 2, 0, [0, 1]


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
    parallel_state._TP = Group()
    config.parallel_config.tensor_parallel_size = config.parallel_config.world_size = 2
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
    """The rows of rank 0's first expert to which the adapter adds what the merged checkpoint does not have."""
    worker.add_adapter(LoRARequest("one", number, f"{folder}/adapter"))
    slot = worker._adapter_manager.lora_index_to_id.index(number)
    got = layer.w13_lora_b_stacked[0][slot, 0] @ layer.w13_lora_a_stacked[0][slot, 0]
    worker.remove_adapter(number)
    return [row for row in range(len(got)) if not torch.allclose(got[row], right[0, row], atol=1e-5)]


wrong = wrong_rows(1)
layer._base_model = "GptOssForCausalLM"
undone = wrong_rows(2)
report(
    "B · A of the first expert on rank 0 is what the merged checkpoint adds to its rows",
    f"{len(wrong)} of {right.shape[1]} rows are not; told that it is GptOssForCausalLM, {len(undone)}",
    bool(wrong) and not undone,
)
