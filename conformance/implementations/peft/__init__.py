"""PEFT's LoRA layers as an implementation under test, on torch's linear layers."""

from conformance.implementations.peft.implementation import PeftImplementation

__all__ = ["PeftImplementation"]
