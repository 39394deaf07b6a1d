"""Real vLLM as an implementation under test, and its linear layers as base layers."""

from conformance.implementations.vllm.implementation import VllmImplementation

__all__ = ["VllmImplementation"]
