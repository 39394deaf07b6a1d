"""An adapter of the projections around Nemotron-H's latent experts is loaded, and the runner calls the bare layers.

With `moe_latent_size`, as the larger published models have it, `fc1_latent_proj` and `fc2_latent_proj` are handed to
the runner of the experts, as `routed_input_transform` and `routed_output_transform`. LoRA wraps them where the block
has them; the runner's names for them it does not look at, and keeps what it was handed. `all-linear` has both.
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
from vllm.lora.layers import LoRAMapping
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
    """The model in a directory, the worker's manager of its adapters, and the engine's configuration."""
    options = EngineArgs(
        model=directory, dtype="float32", skip_tokenizer_init=True, enforce_eager=True, enable_lora=True
    )
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


small = NemotronHConfig(
    hidden_size=64, intermediate_size=128, moe_intermediate_size=48, moe_shared_expert_intermediate_size=48,
    layers_block_type=["moe"], num_attention_heads=4, num_key_value_heads=4, head_dim=16, mamba_num_heads=8,
    mamba_head_dim=16, n_groups=4, ssm_state_size=16, n_routed_experts=4, num_experts_per_tok=2, moe_latent_size=32,
    vocab_size=128, max_position_embeddings=256, chunk_size=16,
)  # fmt: skip
base = NemotronHForCausalLM(small)
base.save_pretrained(f"{folder}/base")
adapted = get_peft_model(base, LoraConfig(r=1, target_modules=["fc1_latent_proj"], init_lora_weights=False))
adapted.save_pretrained(f"{folder}/adapter")
adapted.merge_and_unload().save_pretrained(f"{folder}/merged")
model, worker, _ = served(f"{folder}/base")
other = served(f"{folder}/merged")[0]
token = torch.linspace(-1, 1, 64).view(1, 64)
worker.set_active_adapters({LoRARequest("one", 1, f"{folder}/adapter")}, LoRAMapping((1,), (1,), is_prefill=True))
mixer = model.model.layers[0].mixer
runner, merged = mixer.experts.base_layer, other.model.layers[0].mixer.experts.base_layer
without = mixer.fc1_latent_proj.base_layer(token)[0]
got, expected = (one.apply_routed_input_transform(token)[0] for one in (runner, merged))
runner.routed_input_transform = mixer.fc1_latent_proj  # what the runner calls, pointed to the wrapper
mended = runner.apply_routed_input_transform(token)[0]
assert torch.allclose(mended, expected, atol=1e-4), "that the runner has the bare layer is not why"
report(
    f"what experts are given begins with {float(expected[0, 0]):g}, as of the merged checkpoint",
    f"{float(got[0, 0]):g}, that of the base model: {got.equal(without)}",
    got.equal(without) and not torch.allclose(got, expected, atol=1e-4),
)
