"""Checkpoints: a model of a type, built and saved by transformers with the numbers of a case."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from conformance.values.models import fill_weight
from strategies.models.cases import ModelCase

transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()


def config_of(case: ModelCase) -> Any:
    """The configuration of a case."""
    return AutoConfig.for_model(case.target, **case.choices, dtype=case.dtype.value)


def model_of(config: Any, *, device: str = "cpu") -> nn.Module:
    """A model of that configuration, uninitialized."""
    dtype = getattr(torch, str(config.dtype).removeprefix("torch."))
    with _default_dtype(dtype), torch.device(device):
        return AutoModelForCausalLM.from_config(config)  # type: ignore[no-any-return]


def filled(model: nn.Module, seed: int) -> nn.Module:
    """The same model with the numbers of ``seed``; parameters under two names are filled once."""
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point():
            fill_weight(parameter.data, seed, name)
    return model


def save(model: Any, directory: Path) -> None:
    """As a user would: the configuration and the tensors, under the names of published checkpoints."""
    model.save_pretrained(directory)


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
