"""What a model class of vLLM takes from a checkpoint: its parameters, under the names that its own loader knows."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from conformance.implementations.vllm.models.bare import alone, bare_model

_EXPERTS = re.compile(r"(?P<where>.*\.experts)(\.routed_experts)?\.(?P<which>w13|w2)_weight$")


class NamesUnknown(Exception):
    """The loader does not take the names that were tried; the message says which parameters stayed empty."""


@dataclass(frozen=True, slots=True)
class CheckpointTensor:
    """One tensor of a checkpoint; ``embeds`` says that its rows are looked up by ids."""

    name: str
    shape: tuple[int, ...]
    embeds: bool = False


def tensors_taken(directory: Path, renamed: Mapping[str, str], experts: Sequence[str]) -> tuple[CheckpointTensor, ...]:
    """The checkpoint of the config.json in ``directory``, packed layers in their members, stacked experts one by one.

    ``renamed`` are patterns of vLLM's names whose tensors checkpoints call otherwise, and how; ``experts`` what they
    call an expert's gate, up and down projection. The names are held against the loader: it has to fill every
    parameter from them.

    Raises:
        NamesUnknown: it does not.
        Whatever vLLM does for a configuration that it does not take.
    """
    with torch.device("cpu"), bare_model(directory, torch.float32, alone(), lora=True) as (model, _), torch.no_grad():
        found = []
        for name, parameter in model.named_parameters():
            for one in _tensors_of(model, name, parameter, experts):
                called = one.name
                for pattern, instead in renamed.items():
                    called = re.sub(pattern, instead, called)
                found.append(CheckpointTensor(called, one.shape, one.embeds))
        _require_filled(model, found)
        return tuple(found)


def _tensors_of(model: Any, name: str, parameter: Tensor, experts: Sequence[str]) -> Iterator[CheckpointTensor]:
    stacked = _EXPERTS.match(name)
    if stacked is not None:
        gate, up, down = experts
        count, rows, columns = parameter.shape
        members = {gate: rows // 2, up: rows // 2} if stacked["which"] == "w13" else {down: rows}
        for number in range(count):
            for member, own in members.items():
                yield CheckpointTensor(f"{stacked['where']}.{number}.{member}.weight", (own, columns))
        return
    path, _, leaf = name.rpartition(".")
    parent, _, last = path.rpartition(".")
    module = model.get_submodule(path)
    members = (getattr(model, "packed_modules_mapping", None) or {}).get(last, [last])
    sizes = getattr(module, "output_sizes", None) or [len(parameter)]
    if len(members) == len(sizes) > 1:
        for member, size in zip(members, sizes, strict=True):
            yield CheckpointTensor(_joined(parent, member, leaf), (size, *parameter.shape[1:]))
        return
    rows = getattr(module, "org_vocab_size", len(parameter) if parameter.ndim else 0)
    shape = (rows, *parameter.shape[1:]) if parameter.ndim else ()
    embeds = hasattr(module, "org_vocab_size") and type(module).__name__ != "ParallelLMHead"
    yield CheckpointTensor(_joined(parent, members[0] if len(members) == 1 else last, leaf), shape, embeds)


def _joined(*parts: str) -> str:
    return ".".join(part for part in parts if part)


def _require_filled(model: Any, tensors: Sequence[CheckpointTensor]) -> None:
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.fill_(torch.nan)
    try:
        model.load_weights((one.name, torch.zeros(one.shape)) for one in tensors)
    except (KeyError, ValueError, AssertionError, RuntimeError, AttributeError) as error:
        raise NamesUnknown(f"its loader broke off: {type(error).__name__}: {str(error).splitlines()[:1]}") from error
    empty = [name for name, parameter in model.named_parameters() if parameter.isnan().any()]
    if empty:
        raise NamesUnknown(f"its loader leaves {', '.join(empty)} empty")
