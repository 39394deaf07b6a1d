"""BLIP-2 on the Transformers backend does not start with LoRA: its head is inside of its language model.

Where LoRA finds a layer whose name ends in `lm_head` it asks the head's parent for a `logits_processor`
(`LoRAModelManager._create_lora_modules`). The backend makes one at the top of the model alone, and BLIP-2's head is
`language_model.lm_head` in transformers. vLLM's own class starts: it is made of classes that have both.
Clause MODEL-6. Releases: 0.33.0.
"""

# ruff: noqa: E402
import os

os.environ |= {"VLLM_TARGET_DEVICE": "cpu", "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_PLUGINS": "", "HF_HUB_OFFLINE": "1"}
os.environ |= {"HUMMING_DISABLE_PARALLEL_BUILD": "1"}  # or importing vLLM starts background builds

import sys
import tempfile
from types import SimpleNamespace

import torch
import vllm.platforms
from vllm.platforms.cpu import CpuPlatform

vllm.platforms._current_platform = CpuPlatform()  # the wheel of a machine without a GPU has none

from transformers import Blip2Config
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.distributed import init_distributed_environment, initialize_model_parallel
from vllm.engine.arg_utils import EngineArgs
from vllm.lora.worker_manager import LRUCacheWorkerLoRAManager
from vllm.model_executor.model_loader import get_model
from vllm.multimodal.processing.context import InputProcessingContext

torch.set_grad_enabled(False)
parts = SimpleNamespace(image_processor=None, video_processor=None)
InputProcessingContext.get_hf_processor = lambda *given, **named: parts  # whose files are not there
folder = tempfile.mkdtemp()
with set_current_vllm_config(VllmConfig()):
    init_distributed_environment(1, 0, f"file://{folder}/rendezvous", 0, backend="gloo")
    initialize_model_parallel(1, 1)


def start(served_by):
    """How the start of an engine with LoRA ends, and where the model has heads."""
    options = EngineArgs(
        model=folder, dtype="float32", skip_tokenizer_init=True, enforce_eager=True, max_model_len=64,
        enable_lora=True, load_format="dummy", model_impl=served_by,
    )  # fmt: skip
    config = options.create_engine_config()
    with set_current_vllm_config(config):
        model = get_model(vllm_config=config)
        ends = [name for name, _ in model.named_modules() if name.endswith(("lm_head", "logits_processor"))]
        worker = LRUCacheWorkerLoRAManager(config, torch.device("cpu"), model.embedding_modules)
        try:
            worker.create_lora_manager(model, config)
        except AttributeError as error:
            return f"AttributeError: {error}", ends
    return "started", ends


def report(expected, got, present):
    """Ends the script: 1 where the defect is there, 0 where not."""
    print(f"expected: {expected}\ngot:      {got}\n{'PRESENT' if present else 'absent'} in vLLM {vllm.__version__}")
    sys.exit(int(present))


text = {
    "model_type": "opt", "hidden_size": 64, "ffn_dim": 128, "num_hidden_layers": 1, "num_attention_heads": 4,
    "vocab_size": 128, "max_position_embeddings": 64, "word_embed_proj_dim": 64,
}  # fmt: skip
tower = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 4}
tower |= {"image_size": 28, "patch_size": 14}
former = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 4}
former |= {"encoder_hidden_size": 64, "vocab_size": 128}
config = Blip2Config(
    text_config=text, vision_config=tower, qformer_config=former, num_query_tokens=4, image_text_hidden_size=64,
    image_token_index=127, architectures=["Blip2ForConditionalGeneration"],
)  # fmt: skip
config.save_pretrained(folder)
print("vLLM's own class:", *start("vllm"))
got, ends = start("transformers")
report("the engine starts with LoRA on the backend, too", f"{got}, of {ends}", got != "started")
