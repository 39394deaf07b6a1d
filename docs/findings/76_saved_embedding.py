"""An embedding that PEFT saved beside its adapter is skipped, whatever is in it.

Who gives a new token's row numbers and then adapts `embed_tokens` finds both in the adapter's file, and PEFT loads
both. vLLM passes over keys that end in `.embed_tokens.base_layer.weight` or `.lm_head.base_layer.weight`, and serves
the row of the base checkpoint. Keys of A and B are served; the rows that are as they were in the base are right.
Clause MODEL-9. Releases: 0.33.0.
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

from peft import LoraConfig, PeftModel, get_peft_model
from transformers import Qwen3Config, Qwen3ForCausalLM
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.distributed import init_distributed_environment, initialize_model_parallel
from vllm.engine.arg_utils import EngineArgs
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


small = Qwen3Config(
    hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=4,
    head_dim=16, vocab_size=128, max_position_embeddings=64, tie_word_embeddings=False,
)  # fmt: skip
base = Qwen3ForCausalLM(small)
base.save_pretrained(f"{folder}/base")
base.model.embed_tokens.weight[-1] = base.model.embed_tokens.weight[:-1].mean(0) + 1  # of a new token
config = LoraConfig(r=1, target_modules=["embed_tokens"], init_lora_weights=False)
get_peft_model(base, config).save_pretrained(f"{folder}/adapter")
again = PeftModel.from_pretrained(Qwen3ForCausalLM.from_pretrained(f"{folder}/base"), f"{folder}/adapter")
tokens = torch.arange(128)
right = again.get_input_embeddings()(tokens)
model, worker = served(f"{folder}/base")
worker.set_active_adapters({LoRARequest("one", 1, f"{folder}/adapter")}, LoRAMapping((1,) * 128, (1,) * 128, False))
got = model.model.embed_tokens(tokens)
wrong = [token for token in range(128) if not torch.allclose(got[token], right[token], atol=1e-5)]
report(
    "each token's embedding is that of PEFT's model with base checkpoint and adapter, or the adapter is refused",
    f"it is loaded, and that of token {wrong} is another by {float((got - right).abs().max()):g}",
    wrong == [127],
)
