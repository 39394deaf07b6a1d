"""vLLM in this process: imported once, on the platform asked for, with the parts that the suite drives.

On a CPU everything works on vLLM 0.19.1, 0.20.0, 0.32.0 and 0.33.0; no model, hub or GPU is needed.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from conformance.implementations.protocol import MissingPrerequisite, version_of

_ENVIRONMENT = {
    "HUMMING_DISABLE_PARALLEL_BUILD": "1",  # or importing 0.32.0 and later starts background builds
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_PLUGINS": "",
    "HF_HUB_OFFLINE": "1",
}
_PLATFORMS = {"cpu": ("vllm.platforms.cpu", "CpuPlatform"), "cuda": ("vllm.platforms.cuda", "CudaPlatform")}
# Without a reference the context manager of the current config would be collected, and close itself.
_process_wide = contextlib.ExitStack()
# The release whose CPU ops leave tokens without an adapter alone (vllm #48421, #49656).
_SERVES_TOKENS_WITHOUT_ADAPTER = (0, 33, 0)


@dataclass(frozen=True, slots=True)
class Runtime:
    """The modules of vLLM that the suite uses, and its version."""

    version: str
    device: str
    linear: Any
    parallel_state: Any
    config: Any
    lora_layers: Any
    lora_utils: Any
    lora_weights: Any
    model_manager: Any
    punica_wrapper: Any
    quant_utils: Any

    @property
    def release(self) -> tuple[int, ...]:
        """The version's numbers."""
        return tuple(int(part) for part in self.version.split("+")[0].split(".")[:3] if part.isdigit())


class Chosen:
    """The device of this process's vLLM."""

    device = "cpu"


def set_up(device: str) -> Runtime:
    """vLLM on ``device``, which it stays on until the process ends.

    Raises:
        MissingPrerequisite: vLLM is not installed, or is in use on another device already.
    """
    if not runtime.cache_info().currsize:
        Chosen.device = device
    if runtime().device != device:
        raise MissingPrerequisite(f"vLLM runs on {runtime().device} in this process and cannot move to {device}")
    return runtime()


@functools.cache
def runtime() -> Runtime:
    """Sets up the platform (see `set_up`) and imports vLLM; later calls return the same object.

    The wheel of a machine without a GPU has no platform, so one is put in place before anything asks for it. The
    `VllmConfig` stays current until the process ends: it is a process-wide global that entering saves and leaving
    restores, so rank threads that entered it on their own would take it from under each other.

    Raises:
        MissingPrerequisite: vLLM is not installed.
    """
    installed_version()
    os.environ.setdefault("VLLM_TARGET_DEVICE", Chosen.device)  # honoured by 0.32.0 and later
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    with _hushed("torch"), _hushed("vllm"):
        found = _imported()
    logging.getLogger("vllm").setLevel(logging.ERROR)
    return found


def installed_version() -> str:
    """The version of vLLM, which is not imported for that.

    Raises:
        MissingPrerequisite: vLLM is not installed.
    """
    return version_of(
        "vllm",
        "vLLM is not installed: run "
        "\"uv pip install -e '.[vllm]' --overrides overrides.txt -c constraints.txt\", "
        "or let `make conformance IMPL=vllm` do it",
    )


@contextlib.contextmanager
def _hushed(name: str) -> Iterator[None]:
    """Without what a library has to say to its own developers when it is imported."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _imported() -> Runtime:
    platforms = importlib.import_module("vllm.platforms")
    module, cls = _PLATFORMS[Chosen.device]
    platforms._current_platform = getattr(importlib.import_module(module), cls)()  # type: ignore[attr-defined]
    config = importlib.import_module("vllm.config")
    _process_wide.enter_context(config.set_current_vllm_config(config.VllmConfig()))
    return Runtime(
        version=installed_version(),
        device=Chosen.device,
        linear=importlib.import_module("vllm.model_executor.layers.linear"),
        parallel_state=importlib.import_module("vllm.distributed.parallel_state"),
        config=importlib.import_module("vllm.config.lora"),
        lora_layers=importlib.import_module("vllm.lora.layers"),
        lora_utils=importlib.import_module("vllm.lora.utils"),
        lora_weights=importlib.import_module("vllm.lora.lora_weights"),
        model_manager=importlib.import_module("vllm.lora.model_manager"),
        punica_wrapper=importlib.import_module("vllm.lora.punica_wrapper"),
        quant_utils=importlib.import_module("vllm.model_executor.layers.quantization.utils.quant_utils"),
    )


@functools.lru_cache(maxsize=256)
def lora_config(max_loras: int, max_lora_rank: int, fully_sharded: bool, dtype: torch.dtype) -> Any:
    """A `LoRAConfig`; one object serves all layers that are wrapped alike.

    Raises:
        ValueError: vLLM does not accept these settings.
    """
    return runtime().config.LoRAConfig(
        max_lora_rank=max_lora_rank, max_loras=max_loras, fully_sharded_loras=fully_sharded, lora_dtype=dtype
    )


def needs_spare_slot() -> bool:
    """Whether a token without an adapter is served the last slot's (K1), which the CPU ops did."""
    return runtime().device == "cpu" and runtime().release < _SERVES_TOKENS_WITHOUT_ADAPTER


def add_spare_slot(wrapped: Any) -> None:
    """Gives a LoRA layer one more slot, which stays zero and is then the last one, so that K1 changes nothing."""
    for name in ("lora_a_stacked", "lora_b_stacked"):
        stacked = getattr(wrapped, name)
        setattr(wrapped, name, tuple(torch.cat([part, torch.zeros_like(part[:1])]) for part in stacked))
