"""Stand-ins for vLLM's compiled operators that its fused experts need on CUDA: the same functions, by torch."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor


def put_in_place() -> None:
    """Each of them where this installation of vLLM lacks it."""
    operators: Any = importlib.import_module("vllm._custom_ops")
    for library, name, stand_in in (
        (torch.ops._moe_C, "moe_align_block_size", aligned),
        (torch.ops._moe_C, "moe_lora_align_block_size", aligned_by_adapter),
        (torch.ops._moe_C, "moe_sum", summed),
        (torch.ops._C_cuda_utils, "get_max_shared_memory_per_block_device_attribute", shared_memory),
    ):
        if not hasattr(library, name):
            setattr(operators, name, stand_in)


def shared_memory(device: int) -> int:
    """Bytes that a thread block may have."""
    properties: Any = torch.cuda.get_device_properties(device)
    return int(properties.shared_memory_per_block_optin)


def aligned(
    ids: Tensor,
    experts: int,
    block: int,
    places: Tensor,
    expert_of_block: Tensor,
    length: Tensor,
    expert_map: Tensor | None = None,
    scatter: Tensor | None = None,
) -> None:
    """Places of ``ids`` by expert, each expert's filled up to whole blocks with a place past the last.

    Writes ``places``, the expert of every block, and how long what is written is.
    """
    if expert_map is not None or scatter is not None:
        raise NotImplementedError("experts that are shared out among ranks are not driven here")
    flat, end = ids.flatten(), 0
    places.fill_(flat.numel())
    for expert in range(experts):
        found = (flat == expert).nonzero().flatten()
        places[end : end + len(found)] = found
        start, end = end, end + -(-len(found) // block) * block
        expert_of_block[start // block : end // block] = expert
    length.fill_(end)


def aligned_by_adapter(
    ids: Tensor,
    adapter_of_token: Tensor,
    experts: int,
    block: int,
    slots: int,
    most_places: int,
    most_blocks: int,
    places: Tensor,
    expert_of_block: Tensor,
    lengths: Tensor,
    enabled: Tensor,
    active: Tensor,
    expert_map: Tensor | None = None,
) -> None:
    """`aligned` for each slot in use, in the slot's own part of what is written, with the tokens that it serves."""
    for slot in active.tolist():
        if 0 <= slot < slots and enabled[slot]:
            served = torch.where(adapter_of_token[: len(ids), None] == slot, ids, experts)
            own = places.view(slots, most_places)[slot], expert_of_block.view(slots, most_blocks)[slot]
            aligned(served, experts, block, *own, lengths[slot : slot + 1], expert_map)


def summed(given: Tensor, output: Tensor, ids: Tensor | None = None, expert_map: Tensor | None = None) -> None:
    """The sum over a token's places, rounded once."""
    if expert_map is not None:
        raise NotImplementedError("experts that are shared out among ranks are not driven here")
    output.copy_(given.float().sum(dim=1))
