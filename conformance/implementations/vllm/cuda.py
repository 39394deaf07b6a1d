"""What differs where vLLM runs on CUDA: its LoRA ops are Triton kernels there."""

from __future__ import annotations

import importlib
import importlib.util

import torch

from strategies.cases import Case, Dtype, Layout
from strategies.quantization import OF_ACTIVATIONS
from strategies.vocabulary import VocabularyCase, VocabularyLayer

# Both of its ops assert so.
DTYPES = (Dtype.BFLOAT16, Dtype.FLOAT16)
_UTILS = "vllm.lora.ops.triton_ops.utils"
WHY_NO_EXPERTS = "its expert layer is not driven on CUDA here"


def unsupported_on_cuda(case: Case) -> str | None:
    """Why a case is not run on CUDA, or None."""
    if case.dtype not in DTYPES:
        return f"vLLM's Triton ops take float16 and bfloat16, not {case.dtype.value}"
    if case.quantization in OF_ACTIVATIONS:
        return "vLLM's FP8 products on CUDA are compiled extensions, which are not driven here"
    if case.layout is Layout.FOUR_D:
        return (
            "vLLM sizes its buffer by the first dimension of a 4-D input and its Triton op writes a row a token, "
            "past the end, which harms whatever lies there; on its CPU ops the case is an error (finding 26)"
        )
    return None


def unsupported_vocabulary_on_cuda(case: VocabularyCase) -> str | None:
    """Why an embedding or LM head is not run on CUDA, or None."""
    if case.dtype not in DTYPES:
        return f"vLLM's Triton ops take float16 and bfloat16, not {case.dtype.value}"
    if case.layer is VocabularyLayer.EMBEDDING and any(not 0 <= one < case.vocabulary for one in case.ids):
        return "vLLM looks ids up in LoRA A unmasked: on CUDA one outside the vocabulary ends the process"
    if case.layer is VocabularyLayer.EMBEDDING and case.tp_size > 1 and not _looks_up():
        return "its sharded lookup is a compiled operator on CUDA, which this installation of vLLM lacks"
    return None


def _looks_up() -> bool:
    """Whether a sharded embedding can run: 0.32.0 and later have an operator of their own for it."""
    operators = importlib.import_module("vllm._custom_ops")
    return not hasattr(operators, "vocab_parallel_embedding") or hasattr(torch.ops._C, "vocab_parallel_embedding")


def forget_addresses() -> None:
    """Empties the caches in which vLLM's Triton ops keep what they know of buffers, by address and for ever.

    An engine allocates its buffers once. Here every case has its own, and the allocator gives addresses out again.
    """
    if importlib.util.find_spec(_UTILS) is None:
        return
    utils = importlib.import_module(_UTILS)
    utils._LORA_A_PTR_DICT.clear()
    utils._LORA_B_PTR_DICT.clear()
