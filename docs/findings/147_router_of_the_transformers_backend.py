"""An adapter of the router of Mixtral on the Transformers backend is loaded, and tokens are routed without it.

With `model_impl="transformers"` the runner of the experts is handed the router (`MoEBlockFuser.gate`) and calls it.
LoRA wraps `mlp.gate`, which nobody else asks; the runner keeps the bare layer, as in finding 130. vLLM's own class of
Mixtral is not so. Where the experts come first in the block, as in DeepSeek V3, the adapter vanishes (finding 53).
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
from transformers import MixtralConfig, MixtralForCausalLM
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.distributed import init_distributed_environment, initialize_model_parallel
from vllm.engine.arg_utils import EngineArgs
from vllm.forward_context import set_forward_context
from vllm.lora.layers import LoRAMapping
from vllm.lora.request import LoRARequest
from vllm.lora.worker_manager import LRUCacheWorkerLoRAManager
from vllm.model_executor.model_loader import get_model

torch.set_grad_enabled(False)
folder = tempfile.mkdtemp()
with set_current_vllm_config(VllmConfig()):
    init_distributed_environment(1, 0, f"file://{folder}/rendezvous", 0, backend="gloo")
    initialize_model_parallel(1, 1)


def served(directory):
    """The model in a directory, the worker's manager of its adapters, and the engine's configuration."""
    options = EngineArgs(
        model=directory, dtype="float32", skip_tokenizer_init=True, enforce_eager=True, enable_lora=True,
        model_impl="transformers",
    )  # fmt: skip
    config = options.create_engine_config()
    with set_current_vllm_config(config):
        model = get_model(vllm_config=config)
        worker = LRUCacheWorkerLoRAManager(config, torch.device("cpu"), model.embedding_modules)
        worker.create_lora_manager(model, config)
    return model, worker, config


def report(expected, got, present):
    """Ends the script: 1 where the defect is there, 0 where not."""
    print(f"expected: {expected}\ngot:      {got}\n{'PRESENT' if present else 'absent'} in vLLM {vllm.__version__}")
    sys.exit(int(present))


small = MixtralConfig(
    hidden_size=64, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=4,
    num_local_experts=4, num_experts_per_tok=2, vocab_size=128, max_position_embeddings=64,
)  # fmt: skip
base = MixtralForCausalLM(small)
base.save_pretrained(f"{folder}/base")
asked = LoraConfig(r=1, target_modules=[], target_parameters=["mlp.gate.weight"], init_lora_weights=False)
adapted = get_peft_model(base, asked)
adapted.save_pretrained(f"{folder}/adapter")
adapted.merge_and_unload().save_pretrained(f"{folder}/merged")
model, worker, config = served(f"{folder}/base")
other, _, others = served(f"{folder}/merged")
token = torch.linspace(-1, 1, 64).view(1, 64)
worker.set_active_adapters({LoRARequest("one", 1, f"{folder}/adapter")}, LoRAMapping((1,), (1,), is_prefill=True))


def routed(mlp, config):
    """The logits by which a block's runner chooses experts for the token."""
    seen, runner = [], getattr(mlp.experts, "base_layer", mlp.experts)

    def experts(**given):
        seen.append(given["router_logits"].clone())
        return None, given["hidden_states"]

    runner._apply_quant_method = experts  # no CPU has LoRA of experts
    with set_forward_context(None, config):
        runner._forward_impl(token, token, None)
    return seen[0]


block = model.model.layers[0].mlp
without, got = block.gate.base_layer(token)[0], routed(block, config)
expected = routed(other.model.layers[0].mlp, others)
block.experts.base_layer.gate = block.gate  # what the runner calls, pointed to the wrapper
assert torch.allclose(routed(block, config), expected, atol=1e-4), "that the runner has the bare layer is not why"
report(
    f"router logits {[round(one, 4) for one in expected[0].tolist()]}, as of the merged checkpoint",
    f"{[round(one, 4) for one in got[0].tolist()]}, those of the base model: {got.equal(without)}",
    got.equal(without) and not torch.allclose(got, expected, atol=1e-4),
)
