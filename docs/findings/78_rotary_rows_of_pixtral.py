"""An adapter of q_proj and k_proj of Pixtral's tower is served with its rows in another order than the tower's.

Files in Mistral's format, as Mistral 3 models are served from, have the two numbers that a rotary embedding turns into
each other side by side, transformers has them half a head apart; vLLM's class takes the former as they are, and
its mapper takes adapters of transformers' names, whose B has the latter. With B's rows in the file's order the tower's
scores are those of transformers and PEFT, as they are without an adapter. The engine was started with LoRA on towers.
Clause MODEL-2. Releases: 0.33.0.
"""

# ruff: noqa: E402
import json
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
from transformers import Mistral3Config, Mistral3ForConditionalGeneration
from transformers.models.pixtral.modeling_pixtral import apply_rotary_pos_emb
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.distributed import init_distributed_environment, initialize_model_parallel
from vllm.engine.arg_utils import EngineArgs
from vllm.lora import model_manager
from vllm.lora.request import LoRARequest
from vllm.lora.worker_manager import LRUCacheWorkerLoRAManager
from vllm.model_executor.model_loader import get_model
from vllm.model_executor.models.pixtral import apply_rotary_emb_vit, precompute_freqs_cis_2d

torch.set_grad_enabled(False)
folder = tempfile.mkdtemp()
with set_current_vllm_config(VllmConfig()):
    init_distributed_environment(1, 0, f"file://{folder}/rendezvous", 0, backend="gloo")
    initialize_model_parallel(1, 1)


class Room:
    """In place of vLLM's budget of images, which asks for a processor's files; LoRA asks it for this much."""

    mm_max_items_per_prompt, mm_max_toks_per_item = {"image": 1}, {"image": 64}
    get_encoder_budget = staticmethod(lambda: 64)


model_manager.MultiModalBudget = lambda config, registry: Room()


def served(weights):
    """The model with some weights of a file, and the worker's manager of its adapters."""
    how = {"skip_tokenizer_init": True, "enforce_eager": True, "config_format": "mistral", "load_format": "dummy"}
    lora = {"enable_lora": True, "enable_tower_connector_lora": True}
    options = EngineArgs(model=f"{folder}/base", dtype="float32", max_model_len=64, **how, **lora)
    config = options.create_engine_config()
    with set_current_vllm_config(config):
        model = get_model(vllm_config=config)
        model.load_weights(weights)
        worker = LRUCacheWorkerLoRAManager(config, torch.device("cpu"), model.embedding_modules)
        worker.create_lora_manager(model, config)
    return model, worker


def report(expected, got, present):
    """Ends the script: 1 where the defect is there, 0 where not."""
    print(f"expected: {expected}\ngot:      {got}\n{'PRESENT' if present else 'absent'} in vLLM {vllm.__version__}")
    sys.exit(int(present))


sizes = {"num_hidden_layers": 1, "num_attention_heads": 4, "hidden_size": 64}
vision = {**sizes, "intermediate_size": 96, "image_size": 28, "patch_size": 14}
text = {**sizes, "intermediate_size": 128, "num_key_value_heads": 4, "head_dim": 16, "vocab_size": 128}
small = Mistral3Config(
    vision_config={"model_type": "pixtral", **vision}, text_config={"model_type": "mistral", **text}
)
more = {"num_channels": 3, "rope_theta": 1e4, "image_token_id": 10, "mm_projector_id": "patch_merge"}
told = {"dim": 64, "hidden_dim": 128, "n_layers": 1, "n_heads": 4, "n_kv_heads": 4, "head_dim": 16, "vocab_size": 128,
        "norm_eps": 1e-5, "rope_theta": 1e4, "max_position_embeddings": 64,
        "vision_encoder": {**vision, **more, "spatial_merge_size": 2}}  # fmt: skip
os.makedirs(f"{folder}/base")
with open(f"{folder}/base/params.json", "w") as file:
    json.dump(told, file)
base = Mistral3ForConditionalGeneration(small)
adapted = get_peft_model(base, LoraConfig(r=1, target_modules=r".*vision_tower.*[qk]_proj", init_lora_weights=False))
adapted.save_pretrained(f"{folder}/adapter")
tower, name = base.model.vision_tower, "transformer.layers.0.attention"
linear = [tower.get_submodule(f"{name}.{end}_proj") for end in "qk"]
places, x = torch.cartesian_prod(torch.arange(2), torch.arange(2)), torch.randn(4, 64)
cos_and_sin = [one[None] for one in tower.patch_positional_embedding(x, places)]
turns = torch.view_as_real(precompute_freqs_cis_2d(16, 2, 2, 1e4).flatten(0, 1))


def side_by_side(rows):
    """Rows of heads as files in Mistral's format have them."""
    return rows.unflatten(0, (4, 2, 8)).transpose(1, 2).reshape(rows.shape)


def scores(weights, of_vllm):
    """How patches attend to each other, by vLLM's rotary embedding or that of transformers."""
    q, k = ((x @ one.T).unflatten(-1, (4, 16))[None] for one in weights)  # batch, patches, heads, numbers
    q, k = apply_rotary_emb_vit(q, k, turns) if of_vllm else apply_rotary_pos_emb(q, k, *cos_and_sin, unsqueeze_dim=2)
    return q.transpose(1, 2) @ k.transpose(1, 2).mT


plain = [one.base_layer.weight for one in linear]
in_file = [(f"vision_encoder.{name}.w{end}.weight", side_by_side(one)) for end, one in zip("qk", plain, strict=True)]
model, worker = served(in_file)
worker.add_adapter(LoRARequest("one", 1, f"{folder}/adapter"))
layer = model.vision_encoder.get_submodule(name).qkv_proj
own = layer.base_layer.weight.split(64)[:2]
assert torch.allclose(scores(own, True), scores(plain, False), atol=1e-4), "of the base"
right = scores([one.base_layer.weight + one.get_delta_weight("default") for one in linear], False)
slots = [layer.lora_b_stacked[at][0, 0] @ layer.lora_a_stacked[at][0, 0] for at in (0, 1)]
got = scores([one + delta for one, delta in zip(own, slots, strict=True)], True)
mended = scores([one + side_by_side(delta) for one, delta in zip(own, slots, strict=True)], True)
wrong = [float((one - right).abs().max()) for one in (got, mended)]
report(
    f"the tower's scores, of {float(right.abs().max()):.3g} at most, are those of transformers and PEFT",
    f"they differ by {wrong[0]:.2g}; with the adapter's rows in the order of the file by {wrong[1]:.2g}",
    wrong[0] > 1e-2 and wrong[1] < 1e-3,
)
