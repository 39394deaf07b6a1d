"""Experts that are apart in the checkpoint and one parameter to PEFT, which adapts them as a stack."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import permutations

from lora_compat.checkpoint_map.factors import TensorDelta
from lora_compat.checkpoint_map.shapes import TensorInfo

_OF_EXPERT = re.compile(r"(?P<module>.+)\.(?P<expert>\d+)\.(?P<projection>[^.]+)\.weight")
Projections = dict[str, dict[int, str]]
# The other names that a checkpoint has for an expert's projections, all three of them; loaders call shards by these.
_NUMBERED = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}


@dataclass(frozen=True, slots=True)
class ExpertStack:
    """A parameter ``[experts, rows, columns]``: for each expert tensors of the checkpoint, one below the other."""

    info: TensorInfo
    members: tuple[tuple[str, ...], ...]

    def deltas(self, of_stack: TensorDelta) -> Iterator[TensorDelta]:
        """What an adapter of the stack is to each tensor."""
        rows = self.info.shape[1] // len(self.members[0])
        for expert, members in enumerate(self.members):
            for part, tensor in zip(of_stack.lora_b[expert].split(rows), members, strict=True):
                yield replace(of_stack, tensor=tensor, lora_a=of_stack.lora_a[expert][None], lora_b=part[None])


def stacks_of(shapes: Mapping[str, TensorInfo], parameters: Iterable[str]) -> dict[str, ExpertStack]:
    """By name the stacks that ``parameters``, the last parts of names, can be of a checkpoint.

    ``down_proj`` is that of each expert. ``gate_up_proj`` is ``gate_proj`` and ``up_proj``, in the order of its name,
    or ``w1`` and ``w3``, which are the same where there is a ``w2``, too; projections that are called otherwise say
    nothing of their order, so they are none.
    """
    modules: dict[str, Projections] = {}
    for name, info in shapes.items():
        match = _OF_EXPERT.fullmatch(name)
        if match and len(info.shape) == 2:
            projection = modules.setdefault(match["module"], {}).setdefault(match["projection"], {})
            projection[int(match["expert"])] = name
    found = {}
    for module, named in modules.items():
        projections = {_NUMBERED[one]: some for one, some in named.items()} if set(named) == set(_NUMBERED) else named
        for parameter in parameters:
            members = [projections[one] for one in _members(parameter, list(projections))]
            stack = _stack(members, shapes) if members else None
            if stack is not None:
                found[f"{module}.{parameter}"] = stack
    return found


def _members(parameter: str, projections: list[str]) -> list[str]:
    if parameter in projections:
        return [parameter]
    for one, other in permutations(projections, 2):
        for end in ("", f"_{one.rpartition('_')[2]}"):
            alike = one.endswith(end) and other.endswith(end)
            if alike and parameter == f"{one.removesuffix(end)}_{other}":
                return [one, other]
    return []


def _stack(members: list[dict[int, str]], shapes: Mapping[str, TensorInfo]) -> ExpertStack | None:
    """None where an expert lacks one, or they are not alike."""
    count = len(members[0])
    infos = {shapes[name] for one in members for name in one.values()}
    if len(infos) != 1 or any(set(one) != set(range(count)) for one in members):
        return None
    (info,) = infos
    shape = (count, info.shape[0] * len(members), info.shape[1])
    return ExpertStack(
        TensorInfo(shape, info.dtype), tuple(tuple(one[expert] for one in members) for expert in range(count))
    )
