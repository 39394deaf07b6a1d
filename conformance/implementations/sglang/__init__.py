"""SGLang's LoRA layers on its own linear layers."""

from conformance.implementations.sglang.implementation import SglangImplementation

__all__ = ["SglangImplementation"]
