"""`lora_compat`, the reference, as an implementation under test, and its linear layers as base layers."""

from conformance.implementations.reference.implementation import LoraCompatLayers, ReferenceImplementation

__all__ = ["LoraCompatLayers", "ReferenceImplementation"]
