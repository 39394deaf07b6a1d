"""An adapter of Gemma 4's k_proj reaches the keys, and not the values that are the same projection.

With `attention_k_eq_v`, as the larger published models have it, a layer of full attention has no v_proj: its values
are what k_proj gives. The weight loader copies k_proj into both shards of the fused QKV layer, an adapter goes to one.
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
from transformers import Gemma4ForCausalLM, Gemma4TextConfig
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


small = Gemma4TextConfig(
    hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2,
    head_dim=16, global_head_dim=16, num_global_key_value_heads=2, vocab_size=128, vocab_size_per_layer_input=128,
    hidden_size_per_layer_input=16, max_position_embeddings=64, num_kv_shared_layers=0, enable_moe_block=False,
    layer_types=["full_attention"], attention_k_eq_v=True, pad_token_id=0, bos_token_id=1, eos_token_id=2,
)  # fmt: skip
base = Gemma4ForCausalLM(small)
base.save_pretrained(f"{folder}/base")
adapted = get_peft_model(base, LoraConfig(r=1, target_modules=["k_proj"], init_lora_weights=False))
adapted.save_pretrained(f"{folder}/adapter")
adapted.merge_and_unload().save_pretrained(f"{folder}/merged")
model, worker = served(f"{folder}/base")
worker.add_adapter(LoRARequest("one", 1, f"{folder}/adapter"))
layer = model.model.layers[0].self_attn.qkv_proj
merged = served(f"{folder}/merged")[0].model.layers[0].self_attn.qkv_proj.base_layer.weight - layer.base_layer.weight
_, key, value = merged.split([len(one[0, 0]) for one in layer.lora_b_stacked])
got_key, got_value = (layer.lora_b_stacked[at][0, 0] @ layer.lora_a_stacked[at][0, 0] for at in (1, 2))
reached = [torch.allclose(*pair, atol=1e-5) for pair in ((got_key, key), (got_value, value))]
report(
    f"B · A of k_proj is added to keys and values, as the merged checkpoint has it twice: {key.equal(value)}",
    f"to the keys: {reached[0]}, to the values: {reached[1]}, which get {float(got_value.abs().max()):g}",
    reached == [True, False],
)
