"""Architectures that are not judged, and why: data."""

from __future__ import annotations

_SECOND_RUNNER = "vLLM serves it with its V2 model runner alone, which needs Triton, and a CPU has none"

# Architectures that stand beside no checkpoint of their own, and why.
NOT_BUILDABLE = {
    "Llama_Nemotron_Nano_VL": "vLLM builds its tower of code that is published with the weights",
    "InklingForCausalLM": "vLLM reads a configuration and names on disk that transformers' text model has not",
    "InternS2MobiusForConditionalGeneration": "transformers has no model whose layers share their experts",
    "LongcatFlashNgramForCausalLM": _SECOND_RUNNER,
    "NanbeigeForCausalLM": "transformers has no implementation of it, which vLLM would ask for",
    "OlmoHybridForCausalLM": "its checkpoints have three convolutions, and vLLM 0.33.0 does not tell the loader of "
    "the one that they make which it is handed: no checkpoint loads, adapters or not",
    "OpenPanguVLForConditionalGeneration": "vLLM asks its processor, whose files are not made, while it is built",
    "Qwen3ASRForcedAlignerForTokenClassification": "transformers has no Qwen3 ASR with a head that classifies",
    "Step5ForCausalLM": _SECOND_RUNNER,
}

# Tables of vLLM's registry whose models are none of their own, and why.
TABLES_NOT_BUILDABLE = {
    "_SPECULATIVE_DECODING_MODELS": "a draft model, which vLLM loads beside the model that it drafts for",
    "_TRANSFORMERS_BACKEND_MODELS": "vLLM's wrapper of transformers' classes; what it serves has names of its own",
}
