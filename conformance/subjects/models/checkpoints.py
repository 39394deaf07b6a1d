"""Checkpoints: a model of a case's type, built and saved by transformers with the numbers of its seed."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from torch import nn

from conformance.implementations.dtypes import default_dtype, torch_dtype
from conformance.subjects.models.configs import small_config
from conformance.subjects.models.making import complete, made
from conformance.subjects.models.offers import targetable
from conformance.subjects.models.types import ModelTarget, resolve
from conformance.values.models import fill_weight
from strategies.models.adapters import Targetable
from strategies.models.cases import ModelCase
from strategies.models.configs import ConfigChoices

resolved = cache(resolve)


_offered: dict[ConfigChoices, tuple[dict[str, Any], nn.Module]] = {}  # the last model that an offer was learned from


def content_of(case: ModelCase) -> dict[str, Any]:
    """The config.json of a case; raises what `small_config` does."""
    return {**small_config(resolved(case.target), case.config), "dtype": case.dtype.of_tensors}


def model_of(case: ModelCase, content: Mapping[str, Any]) -> nn.Module:
    """The case's model with the numbers of its seed; parameters under two names are filled once."""
    kept, model = _offered.pop(case.config, (None, None))
    if model is None or kept != content:
        with default_dtype(torch_dtype(case.dtype)):
            model = made(resolved(case.target), content)
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point():
            fill_weight(parameter.data, case.seed, name)
    return model


def offer_of(target: ModelTarget, choices: ConfigChoices) -> Targetable:
    """What PEFT can target in a model of one configuration; the case that it is drawn for mostly takes the model."""
    content = {**small_config(target, choices), "dtype": "float32"}
    model = made(target, content)
    _offered.clear()
    _offered[choices] = content, model
    return targetable(model)


def save(model: Any, directory: Path, content: Mapping[str, Any]) -> None:
    """As published checkpoints are: tensors under their names on disk, and the whole config.json."""
    model.save_pretrained(directory)
    complete(directory, content)


def untied(content: Mapping[str, Any]) -> dict[str, Any]:
    """The same with a weight for each end."""
    return {
        name: untied(value) if isinstance(value, dict) else False if name == "tie_word_embeddings" else value
        for name, value in content.items()
    }
