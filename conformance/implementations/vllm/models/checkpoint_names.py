"""What a model class of vLLM takes from a checkpoint: its parameters, under the names that its own loader knows."""

from __future__ import annotations

import importlib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from conformance.implementations.vllm.models.bare import alone, bare_model
from conformance.implementations.vllm.models.readings import is_embedding

_EXPERTS = re.compile(r"(?P<where>.*\.experts)(\.routed_experts)?\.(?P<which>w13|w2)_weight$")


class NamesUnknown(Exception):
    """The loader does not take the names that were tried; the message says which parameters stayed empty."""


@dataclass(frozen=True, slots=True)
class CheckpointTensor:
    """One tensor of a checkpoint; ``embeds`` says that its rows are looked up by ids, ``convolves`` what it is of."""

    name: str
    shape: tuple[int, ...]
    embeds: bool = False
    convolves: bool = False


def tensors_taken(
    directory: Path,
    renamed: Mapping[str, str],
    experts: Sequence[str],
    packed: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> tuple[CheckpointTensor, ...]:
    """The checkpoint of the config.json in ``directory``, packed layers in their members, stacked experts one by one.

    ``renamed`` are patterns of vLLM's names whose tensors checkpoints call otherwise, and how, or by nothing where
    they have none; ``experts`` what they call an expert's gate, up and down projection; ``packed`` are patterns of
    layers with their members, which come before what the class declares, the second as ``member:rows`` where the
    layer does not say of how many, the last as ``member:`` where it has all that are left. The names are held against
    the loader: it has to fill every parameter from them.

    Raises:
        NamesUnknown: it does not.
        Whatever vLLM does for a configuration that it does not take.
    """
    with torch.device("cpu"), bare_model(directory, torch.float32, alone(), lora=True) as (model, _), torch.no_grad():
        found, absent = [], []
        utils = importlib.import_module("vllm.model_executor.utils")
        declared = {rf"(.*\.)?{re.escape(last)}": own for last, own in utils.get_packed_modules_mapping(model).items()}
        of_layers = {**packed, **declared}
        for name, parameter in model.named_parameters():
            members = _members(name.rpartition(".")[0], of_layers)
            for one in _tensors_of(model, name, parameter, experts, members):
                called = one.name
                for pattern, instead in renamed.items():
                    called = re.sub(pattern, instead, called)
                found += [replace(one, name=called)] if called else []
                absent += [] if called else [one.name]
        _require_filled(model, found, absent)
        return tuple(found)


def _members(module: str, packed: Mapping[str, Sequence[str]]) -> Sequence[str]:
    """What a layer is packed of; itself, where nothing says anything of it."""
    own = (members for pattern, members in packed.items() if re.fullmatch(pattern, module))
    return next(own, [module.rpartition(".")[2]])


def _tensors_of(
    model: Any, name: str, parameter: Tensor, experts: Sequence[str], members: Sequence[str]
) -> Iterator[CheckpointTensor]:
    stacked = _EXPERTS.match(name)
    if stacked is not None:
        yield from _experts_of(stacked, parameter, experts)
        return
    path, _, leaf = name.rpartition(".")
    parent, _, last = path.rpartition(".")
    module = model.get_submodule(path)
    parts = _parts(members, getattr(module, "output_sizes", None), parameter)
    if len(parts) > 1:
        for member, rows in parts:
            shape = (rows, *parameter.shape[1:])
            yield CheckpointTensor(_joined(parent, member, leaf), shape, convolves=len(shape) > 2)
        return
    own = getattr(module, "org_vocab_size", len(parameter) if parameter.ndim else 0)
    shape = (own, *parameter.shape[1:]) if parameter.ndim else ()
    convolves = leaf == "weight" and ("Conv" in type(module).__name__ or "conv" in last) and len(shape) > 2
    called = _joined(parent, members[0] if len(members) == 1 else last, leaf)
    yield CheckpointTensor(called, shape, is_embedding(module), convolves)


def _experts_of(stacked: re.Match[str], parameter: Tensor, experts: Sequence[str]) -> Iterator[CheckpointTensor]:
    gate, up, down = experts
    count, rows, columns = parameter.shape
    sizes = {gate: rows // 2, up: rows // 2} if stacked["which"] == "w13" else {down: rows}
    for number in range(count):
        for member, own in sizes.items():
            yield CheckpointTensor(f"{stacked['where']}.{number}.{member}.weight", (own, columns))


def _parts(members: Sequence[str], sizes: Sequence[int] | None, parameter: Tensor) -> list[tuple[str, int]]:
    """Members and their rows, where a layer is packed of several."""
    if sizes is not None and len(sizes) == len(members):
        return list(zip(members, sizes, strict=True))
    last, rest, rows = members[-1].partition(":")
    if rows:
        return [(members[0], len(parameter) - int(rows)), (last, int(rows))]
    if rest and sizes is not None:
        return [*zip(members[:-1], sizes, strict=False), (last, sum(sizes[len(members) - 1 :]))]
    return [(one, len(parameter) // len(members)) for one in members] if sizes is None and parameter.ndim else []


def _joined(*parts: str) -> str:
    return ".".join(part for part in parts if part)


def _require_filled(model: Any, tensors: Sequence[CheckpointTensor], absent: Collection[str]) -> None:
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.fill_(torch.nan)
    try:
        model.load_weights((one.name, torch.zeros(one.shape)) for one in tensors)
    except (KeyError, ValueError, AssertionError, RuntimeError, AttributeError) as error:
        raise NamesUnknown(f"its loader broke off: {type(error).__name__}: {str(error).splitlines()[:1]}") from error
    empty = [name for name, parameter in model.named_parameters() if name not in absent and parameter.isnan().any()]
    if empty:
        raise NamesUnknown(f"its loader leaves {', '.join(empty)} empty")
