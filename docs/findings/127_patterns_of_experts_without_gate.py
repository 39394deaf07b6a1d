"""A rank or alpha of their own, of the up projection of Nemotron-H's experts, is not looked at.

PEFT writes stacked experts as `experts.base_layer` and `experts`, and matches its patterns with the parameters' names.
vLLM takes the former to be called `gate_up_proj`; without a gate it is `up_proj`, whose pattern matches nothing, and
its adapter is scaled as all others. (Of the second half of its rows see finding 121; this looks at the first.)
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
from transformers import NemotronHConfig, NemotronHForCausalLM
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.distributed import init_distributed_environment, initialize_model_parallel
from vllm.engine.arg_utils import EngineArgs
from vllm.lora.request import LoRARequest
from vllm.lora.worker_manager import LRUCacheWorkerLoRAManager
from vllm.model_executor.layers.fused_moe.config import FusedMoEConfig
from vllm.model_executor.model_loader import get_model

torch.set_grad_enabled(False)
check = FusedMoEConfig.__post_init__


def checked(config):
    """Without the last thing that is looked at: a CPU has no experts without a gate; they are built, and not run."""
    try:
        check(config)
    except NotImplementedError as error:
        if "is_act_and_mul" not in str(error):
            raise


FusedMoEConfig.__post_init__ = checked
folder = tempfile.mkdtemp()
with set_current_vllm_config(VllmConfig()):
    init_distributed_environment(1, 0, f"file://{folder}/rendezvous", 0, backend="gloo")
    initialize_model_parallel(1, 1)


def served(directory):
    """The model in a directory, and the worker's manager of its adapters."""
    options = EngineArgs(
        model=directory, dtype="float32", skip_tokenizer_init=True, enforce_eager=True, max_model_len=64,
        enable_lora=True, enable_mixed_moe_lora_format=True,
    )  # fmt: skip
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


small = NemotronHConfig(
    hidden_size=64, intermediate_size=48, moe_intermediate_size=48, moe_shared_expert_intermediate_size=48,
    layers_block_type=["moe"], num_attention_heads=4, num_key_value_heads=4, head_dim=16, n_routed_experts=4,
    num_experts_per_tok=2, vocab_size=128, max_position_embeddings=64, bos_token_id=1, eos_token_id=2,
)  # fmt: skip
base = NemotronHForCausalLM(small)
base.save_pretrained(f"{folder}/base")
experts = ["experts.up_proj", "experts.down_proj"]
asked = LoraConfig(r=1, target_parameters=experts, alpha_pattern={experts[0]: 32}, init_lora_weights=False)
adapted = get_peft_model(base, asked)
adapted.save_pretrained(f"{folder}/adapter")
adapted.merge_and_unload().save_pretrained(f"{folder}/merged")
model, worker = served(f"{folder}/base")
worker.add_adapter(LoRARequest("one", 1, f"{folder}/adapter", is_3d_lora_weight=True))
layer = model.model.layers[0].mixer.experts
own, merged = (one.model.layers[0].mixer.experts.routed_experts for one in (model, served(f"{folder}/merged")[0]))
got = layer.w13_lora_b_stacked[0][0, 0] @ layer.w13_lora_a_stacked[0][0, 0]
right = (merged.w13_weight - own.w13_weight)[0]
times = float((right.chunk(2)[0] / got.chunk(2)[0]).median())
report(
    f"B · A of the first expert's up projection is scaled by 32, its alpha_pattern, others by {asked.lora_alpha}",
    f"the merged checkpoint has it {times:g} times over",
    abs(times - 4) < 1e-2,
)
