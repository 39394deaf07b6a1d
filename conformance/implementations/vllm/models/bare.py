"""vLLM's model classes without weights, so that their own ``load_weights`` can be asked where those would go."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from conformance.engines.ranks import RankGroup
from conformance.implementations.dtypes import default_dtype
from conformance.implementations.models import ModelSettings
from conformance.implementations.vllm.groups import ranked, staged
from conformance.implementations.vllm.models import engine
from conformance.implementations.vllm.models.rotary_tables import SHARED


@contextmanager
def bare_model(
    directory: Path, dtype: torch.dtype, group: RankGroup, *, lora: bool = False, options: tuple[str, ...] = ()
) -> Iterator[tuple[Any, Any]]:
    """One rank's model of the config.json in ``directory`` and its `VllmConfig`, inside of which it was built.

    Switched on, ``lora`` chooses kernels that LoRA can be added to; ``options`` are those of `ModelSettings`. All its
    tensors may be written over: the rotary tables, which other models of the process share among them, are its own.

    Raises whatever vLLM does for a configuration that it does not take.
    """
    engine.groups()
    with staged((0, 1)), ranked(group), engine.quick_loading(), engine.without_amx(), patch.dict(SHARED, clear=True):
        settings = ModelSettings(lora=lora, options=options, dtype=dtype)
        config = engine.engine_config(directory, settings, group.size)
        utils = importlib.import_module("vllm.model_executor.model_loader.utils")
        with importlib.import_module("vllm.config").set_current_vllm_config(config), default_dtype(dtype):
            yield utils.initialize_model(config), config


def alone() -> RankGroup:
    """The group of a single rank."""
    return RankGroup(0, 1, lambda rank, issued, tensor: [tensor])
