"""SGLang in this process: imported once, without a server, a model, a hub or a GPU, with what the suite drives."""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from conformance.implementations.protocol import Refused, version_of

_ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "SGLANG_DISABLE_REQUEST_LOGGING": "1", "TOKENIZERS_PARALLELISM": "false"}


@dataclass(frozen=True, slots=True)
class Runtime:
    """The modules of SGLang that the suite uses, and its version."""

    version: str
    context: Any
    linear: Any
    embedding: Any
    lora_layers: Any
    lora_adapter: Any
    lora_config: Any
    lora_manager: Any
    lora_utils: Any
    memory_pool: Any
    torch_backend: Any
    forward_batch: Any


@functools.cache
def runtime() -> Runtime:
    """Imports SGLang and publishes the settings of a server that was never started; later calls return the same.

    `override_server_args` is what SGLang's own tests publish settings with.

    Raises:
        MissingPrerequisite: SGLang is not installed.
    """
    installed_version()
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    with _hushed(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = _imported()
        found.context.get_context().override_server_args(lora_backend="torch_native").install()
    logging.getLogger("sglang").setLevel(logging.CRITICAL)
    return found


def installed_version() -> str:
    """The version of SGLang, which is not imported for that.

    Raises:
        MissingPrerequisite: SGLang is not installed.
    """
    return version_of(
        "sglang",
        "SGLang is not installed: let `make conformance IMPL=sglang` do it, or run "
        "\"uv pip install -e '.[sglang]' --overrides overrides.txt -c constraints.txt\" in this directory",
    )


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """Without what a library has to say to its own developers when it is imported."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)


def _imported() -> Runtime:
    def module(name: str) -> Any:
        return importlib.import_module(f"sglang.srt.{name}")

    return Runtime(
        version=installed_version(),
        context=module("runtime_context"),
        linear=module("layers.linear"),
        embedding=module("layers.vocab_parallel_embedding"),
        lora_layers=module("lora.layers"),
        lora_adapter=module("lora.lora"),
        lora_config=module("lora.lora_config"),
        lora_manager=module("lora.lora_manager"),
        lora_utils=module("lora.utils"),
        memory_pool=module("lora.mem_pool"),
        torch_backend=module("lora.backend.torch_backend"),
        forward_batch=module("model_executor.forward_batch_info"),
    )


class Unpinned(TorchFunctionMode):
    """Makes pinned memory ordinary memory.

    SGLang's LoRA layers and its torch backend ask for pinned memory without looking whether there is any, which ends
    in an error on a machine without a GPU (finding 80). Nothing they compute depends on it.
    """

    def __torch_function__(
        self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is torch.Tensor.pin_memory:
            return args[0]
        return func(*args, **{name: value for name, value in (kwargs or {}).items() if name != "pin_memory"})


def without_compiling() -> None:
    """In this thread nothing is compiled: SGLang's embedding compiles the masking of ids, which takes seconds a shape.

    torch keeps the setting for each thread by itself.
    """
    torch._dynamo.config.disable = True


def without_pinning() -> contextlib.AbstractContextManager[object]:
    """Inside, memory that SGLang pins stays ordinary where there is none to be pinned."""
    return contextlib.nullcontext() if torch.cuda.is_available() else Unpinned()


@contextlib.contextmanager
def refusing() -> Iterator[None]:
    """What SGLang raises for a module that it has no LoRA layer for, an `Exception`, is a refusal.

    Raises:
        Refused: it has none.
    """
    try:
        yield
    except Exception as error:
        if type(error) is Exception and str(error).startswith("No corresponding LoRA layer supported for"):
            raise Refused(str(error)) from error
        raise
