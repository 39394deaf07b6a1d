"""What several modules ask: vLLM on whole models."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from conformance.engines.threads import ThreadsEngine
from conformance.implementations.vllm import VllmImplementation
from conformance.subjects.models.observing import chains
from conformance.subjects.subject import Subject


@pytest.fixture(autouse=True)
def forgetting() -> Iterator[None]:
    """What was found out of a chain with a bug planted is asked again without it."""
    yield
    chains.cache_clear()


@pytest.fixture(scope="module")
def subject() -> Subject:
    """vLLM on a CPU, its ranks as threads."""
    torch.set_grad_enabled(False)
    implementation = VllmImplementation()
    implementation.layers.prepare()
    return Subject(implementation, ThreadsEngine())
