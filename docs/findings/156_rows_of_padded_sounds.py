"""The audio tower of Qwen3-ASR has more rows in its first layer than in the others, and says it has theirs.

Sounds are cut into pieces, which are filled up to the longest, and `conv_out` runs before what was filled in is taken
out: a sound that is no multiple of a piece has more rows there than tokens. With LoRA on towers it is not encoded on a
CPU, whatever the adapter is of. Qwen3-Omni likewise.
Clause MODEL-10. Releases: 0.33.0.
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

from peft import LoraConfig, get_peft_model
from transformers import Qwen3ASRConfig, Qwen3ASRForConditionalGeneration
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.distributed import init_distributed_environment, initialize_model_parallel
from vllm.engine.arg_utils import EngineArgs
from vllm.forward_context import set_forward_context
from vllm.lora import model_manager
from vllm.lora.layers import LoRAMapping, LoRAMappingType
from vllm.lora.request import LoRARequest
from vllm.lora.worker_manager import LRUCacheWorkerLoRAManager
from vllm.model_executor.model_loader import get_model

torch.set_grad_enabled(False)
folder = tempfile.mkdtemp()
with set_current_vllm_config(VllmConfig()):
    init_distributed_environment(1, 0, f"file://{folder}/rendezvous", 0, backend="gloo")
    initialize_model_parallel(1, 1)
tokens = {"audio": 64}  # stands in for what a processor's files say of sounds
room = SimpleNamespace(mm_max_items_per_prompt=tokens, mm_max_toks_per_item=tokens, get_encoder_budget=lambda: 64)
model_manager.MultiModalBudget = lambda *given: room

small = Qwen3ASRConfig(
    audio_config={"num_mel_bins": 16, "encoder_layers": 1, "encoder_attention_heads": 4, "encoder_ffn_dim": 96,
                  "d_model": 64, "output_dim": 64, "downsample_hidden_size": 32},
    text_config={"model_type": "qwen3", "vocab_size": 128, "hidden_size": 64, "intermediate_size": 128,
                 "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 16,
                 "max_position_embeddings": 64, "tie_word_embeddings": True},
    audio_token_id=127, timestamp_token_id=126, pad_token_id=125, eos_token_id=[91, 93], tie_word_embeddings=True,
)  # fmt: skip
base = Qwen3ASRForConditionalGeneration(small)
base.save_pretrained(f"{folder}/base")
adapter = LoraConfig(r=1, target_modules=r".*audio_tower.*fc1", init_lora_weights=False)
get_peft_model(base, adapter).save_pretrained(f"{folder}/adapter")
told = {"dtype": "float32", "skip_tokenizer_init": True, "enforce_eager": True, "max_model_len": 64}
told |= {"enable_lora": True, "enable_tower_connector_lora": True}
config = EngineArgs(f"{folder}/base", **told).create_engine_config()
with set_current_vllm_config(config):
    model = get_model(vllm_config=config)
    worker = LRUCacheWorkerLoRAManager(config, torch.device("cpu"), model.embedding_modules)
    worker.create_lora_manager(model, config)
worker.add_adapter(LoRARequest("one", 1, f"{folder}/adapter"))
entered = []
model.audio_tower.conv_out.register_forward_pre_hook(lambda module, args: entered.append(args[0].shape[:-1].numel()))


def outcome(frames):
    """How a sound of so many frames is encoded, where rows are mapped as the class says of its tokens."""
    features, size = torch.ones(16, frames), torch.tensor([frames])
    sound = {"input_audio_features": features, "audio_feature_lengths": size}
    sound["feature_attention_mask"] = size.new_ones(1, frames)
    with set_current_vllm_config(config), set_forward_context(None, config):
        worker.set_active_adapters(set(), LoRAMapping((0,) * 64, (0,), True, LoRAMappingType.TOWER))
        tokens = len(model.embed_multimodal(**sound)[0])
        rows, _ = model.get_mm_lora_token_counts(modality="audio", mm_kwargs=None, num_mm_embeds=tokens)
        worker.set_active_adapters(set(), LoRAMapping((1,) * rows, (1,), True, LoRAMappingType.TOWER))
        try:
            return f"{len(model.embed_multimodal(**sound)[0])} tokens of {rows} rows"
        except RuntimeError as error:
            return f"{rows} rows for {entered[-1]}: RuntimeError: {error}"


whole, found = outcome(200), outcome(230)
present = "RuntimeError" not in whole and "RuntimeError" in found
print(f"expected: a sound is encoded, as one of whole pieces is: {whole}\ngot:      {found}")
print(f"{'PRESENT' if present else 'absent'} in vLLM {vllm.__version__}")
sys.exit(int(present))
