"""PEFT's LoRA layers as an implementation under test, and torch's linear layers as base layers."""

from conformance.implementations.peft.implementation import PeftImplementation
from conformance.implementations.peft.layers import TorchLayers

__all__ = ["PeftImplementation", "TorchLayers"]
