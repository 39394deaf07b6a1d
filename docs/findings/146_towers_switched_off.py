"""LoRA on towers does not start where images are switched off: the largest of no sizes is asked for.

`limit_mm_per_prompt={"image": 0}` is how a model with a tower is run for text alone. LoRA takes the largest number of
items that a prompt may have, of every modality that is left (`LoRAModelManager._maybe_init_mm`); there is none.
`language_model_only`, which says the same in another way, is looked at before that.
Clause MODEL-6. Releases: 0.33.0.
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

from tokenizers import Tokenizer, models
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.distributed import init_distributed_environment, initialize_model_parallel
from vllm.engine.arg_utils import EngineArgs
from vllm.lora.worker_manager import LRUCacheWorkerLoRAManager
from vllm.model_executor.model_loader import get_model

torch.set_grad_enabled(False)
folder = tempfile.mkdtemp()
with set_current_vllm_config(VllmConfig()):
    init_distributed_environment(1, 0, f"file://{folder}/rendezvous", 0, backend="gloo")
    initialize_model_parallel(1, 1)


def start(**options):
    """How a start with LoRA on towers ends."""
    asked = EngineArgs(
        model=folder, dtype="float32", enforce_eager=True, max_model_len=64, enable_lora=True,
        enable_tower_connector_lora=True, load_format="dummy", **options,
    )  # fmt: skip
    config = asked.create_engine_config()
    with set_current_vllm_config(config):
        model = get_model(vllm_config=config)
        worker = LRUCacheWorkerLoRAManager(config, torch.device("cpu"), model.embedding_modules)
        try:
            worker.create_lora_manager(model, config)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
    return "started"


def report(expected, got, present):
    """Ends the script: 1 where the defect is there, 0 where not."""
    print(f"expected: {expected}\ngot:      {got}\n{'PRESENT' if present else 'absent'} in vLLM {vllm.__version__}")
    sys.exit(int(present))


text = LlamaConfig(
    hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=4,
    vocab_size=128, max_position_embeddings=64,
)  # fmt: skip
tower = CLIPVisionConfig(
    hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, image_size=28, patch_size=14,
    hidden_act="gelu",
)  # fmt: skip
LlavaConfig(
    text_config=text, vision_config=tower, image_token_index=2, architectures=["LlavaForConditionalGeneration"]
).save_pretrained(folder)
words = Tokenizer(models.WordLevel({"<unk>": 0, "<s>": 1, "<image>": 2}, unk_token="<unk>"))
tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", bos_token="<s>")
images = CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
LlavaProcessor(images, tokenizer, patch_size=14, vision_feature_select_strategy="default").save_pretrained(folder)

plain, alone = start(), start(language_model_only=True)
off = start(limit_mm_per_prompt={"image": 0})
print(f"with images: {plain}; language_model_only: {alone}")
report("started", off, plain == alone == "started" and off != "started")
