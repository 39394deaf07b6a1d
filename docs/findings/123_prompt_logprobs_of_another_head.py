"""Prompt logprobs are computed with the head of another request's adapter.

The head's tokens are those to sample of, one for each request; prompt logprobs ask the same head for all tokens of one
prompt, and nobody maps those. Here the first token of the second request gets the adapter of the first one; of a
prompt with another number of tokens than there are requests it is an error on a CPU, and on a GPU the tokens that
are more get no adapter. `_get_prompt_logprobs_dict` of the model runner is called as it is.
Clause MATH-3. Releases: 0.33.0.
"""

# ruff: noqa: E402
import os

os.environ |= {"VLLM_TARGET_DEVICE": "cpu", "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_PLUGINS": "", "HF_HUB_OFFLINE": "1"}
os.environ |= {"HUMMING_DISABLE_PARALLEL_BUILD": "1"}  # or importing vLLM starts background builds

import sys
import tempfile
from types import SimpleNamespace as Plain

import torch
import vllm.platforms
from vllm.platforms.cpu import CpuPlatform

vllm.platforms._current_platform = CpuPlatform()  # the wheel of a machine without a GPU has none

from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.distributed import init_distributed_environment, initialize_model_parallel
from vllm.engine.arg_utils import EngineArgs
from vllm.lora.layers import LoRAMapping
from vllm.lora.request import LoRARequest
from vllm.lora.worker_manager import LRUCacheWorkerLoRAManager
from vllm.model_executor.model_loader import get_model
from vllm.v1.sample.sampler import Sampler
from vllm.v1.worker.gpu_model_runner import GPUModelRunner

torch.set_grad_enabled(False)
folder = tempfile.mkdtemp()
with set_current_vllm_config(VllmConfig()):
    init_distributed_environment(1, 0, f"file://{folder}/rendezvous", 0, backend="gloo")
    initialize_model_parallel(1, 1)


def served(directory):
    """The model in a directory, and the worker's manager of its adapters."""
    options = EngineArgs(
        model=directory, dtype="float32", skip_tokenizer_init=True, enforce_eager=True, max_model_len=64,
        enable_lora=True, max_loras=2,
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


small = LlamaConfig(
    hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=4,
    vocab_size=128, max_position_embeddings=64,
)  # fmt: skip
base = LlamaForCausalLM(small)
base.save_pretrained(f"{folder}/base")
for number in (1, 2):
    adapted = get_peft_model(base, LoraConfig(r=1, target_modules=["lm_head"], init_lora_weights=False))
    adapted.save_pretrained(f"{folder}/{number}")
    base = adapted.unload()
model, worker = served(f"{folder}/base")
requests = {LoRARequest(str(number), number, f"{folder}/{number}") for number in (1, 2)}
hidden = torch.randn(6, 64)  # of two requests, each a prompt of three tokens


def prompt_logprobs(of_heads):
    """Those of the second request, where the head's tokens are mapped so."""
    worker.set_active_adapters(requests, LoRAMapping((1, 1, 1, 2, 2, 2), of_heads, is_prefill=True))
    request = Plain(prompt_token_ids=[5, 6, 7], in_progress_prompt_logprobs_cpu=None, num_computed_tokens=0)
    runner = Plain(
        num_prompt_logprobs={"second": 1}, device=torch.device("cpu"), model=model, sampler=Sampler(),
        requests={"second": request},
        input_batch=Plain(req_id_to_index={"second": 1}), query_start_loc=Plain(np=torch.tensor([0, 3, 6])),
        model_config=Plain(logprobs_mode="raw_logprobs"), _sync_device=lambda: None,
    )  # fmt: skip
    found = GPUModelRunner._get_prompt_logprobs_dict(runner, hidden, {"first": 3, "second": 3})
    return found["second"].logprobs[:, 0]


got, right = prompt_logprobs((1, 2)), prompt_logprobs((2, 2))
alike = torch.isclose(got, right).tolist()
report(
    f"log-probabilities of the second prompt's tokens, by its own adapter: {right.tolist()}",
    f"{got.tolist()}, where a token of each request is sampled",
    alike == [False, True],
)
