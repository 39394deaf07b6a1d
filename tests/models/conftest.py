"""What several modules ask: vLLM on whole models."""

from __future__ import annotations

import pytest
import torch

from conformance.engines.threads import ThreadsEngine
from conformance.implementations.vllm import VllmImplementation
from conformance.subjects.subject import Subject


@pytest.fixture(scope="module")
def subject() -> Subject:
    """vLLM on a CPU, its ranks as threads."""
    torch.set_grad_enabled(False)
    implementation = VllmImplementation()
    implementation.layers.prepare()
    return Subject(implementation, ThreadsEngine())
