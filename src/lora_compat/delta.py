"""The LoRA contribution of one layer on one rank: shrink, the collective that sharded adapters need, expand."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lora_compat.errors import TokenCountError, TokenOrderError
from lora_compat.family import Family
from lora_compat.kernels import TokenBatch, accumulation_dtype, expand, shrink
from lora_compat.parallel import TensorParallelGroup
from lora_compat.slots import SlotBuffers
from lora_compat.token_identity import TokenInput, anonymous, tokens_of

NO_TOKENS = TokenBatch.of(())


class LoRADelta:
    """What a wrapped layer adds to its matmul. ``served`` counts how often it did, or had nothing to do."""

    def __init__(self, slots: SlotBuffers, group: TensorParallelGroup, layer: str) -> None:
        self.slots = slots
        self.group = group
        self.layer = layer
        self.batch = NO_TOKENS
        self.served = 0
        self.inside_apply = False
        self.following = False  # a forward of the class's own runs, whose input carries the identity of its tokens
        self.wrapper: Callable[[], nn.Module | None] = lambda: None

    @property
    def active(self) -> bool:
        """Whether a matmul issued now must be added to."""
        return self.batch.active and not self.inside_apply

    def add_to(self, output: Tensor, x: Tensor) -> Tensor:
        """``output [..., local out] + s·(x·Aᵀ)·Bᵀ`` for ``x [..., local in]``; adapter-less rows keep their bits.

        Written in place where ``output`` is contiguous, which what a matmul returns is.

        Raises:
            TokenCountError: ``x`` does not have one row per token of the batch.
            TokenOrderError: nobody knows whose tokens its rows are, and it matters.
        """
        x, batch = self.batch_of(x)
        rows = x.reshape(-1, x.shape[-1])
        if rows.shape[0] != len(batch):
            raise TokenCountError(self.layer, rows.shape[0], len(batch))
        self.served += 1
        plan = self.slots.plan
        hidden = shrink(rows, self.slots.lora_a, batch)
        if plan.fully_sharded:
            hidden = self._collect(hidden)
        output = output.contiguous()
        expand(
            hidden,
            self.slots.lora_b,
            self.slots.scaling,
            batch,
            output.view(-1, output.shape[-1]),
            slice_sizes=plan.expanded_slice_sizes,
            offset=plan.expanded.start,
        )
        return output

    def batch_of(self, x: Tensor) -> tuple[Tensor, TokenBatch]:
        """``x`` as a plain tensor, and the slot of each of its rows: the batch's own, or of the tokens they are.

        Raises:
            TokenOrderError: the class's own forward has mixed them in a way that cannot be followed.
        """
        alike = not self.batch.mixed and x.shape[:-1].numel() == len(self.batch)
        if alike or not (self.following or isinstance(x, TokenInput)):
            return anonymous(x), self.batch
        tokens = tokens_of(x) if isinstance(x, TokenInput) else None
        if tokens is None:
            raise TokenOrderError(self.layer)
        plain = anonymous(x)
        slots = tuple(self.batch.slots[token] for token in tokens)
        return plain, self.batch if slots == self.batch.slots else TokenBatch.of(slots, plain.device)

    def of_rows(self, x: Tensor, output_rows: Tensor) -> Tensor:
        """The contribution to the local output columns ``output_rows`` alone, in the accumulation dtype."""
        columns = sum(self.slots.plan.slice_sizes)
        zeros = torch.zeros(*x.shape[:-1], columns, dtype=accumulation_dtype(x.dtype), device=x.device)
        return self.add_to(zeros, x)[..., output_rows]

    def _collect(self, hidden: Tensor) -> Tensor:
        if self.slots.plan.family is Family.ROW:
            return self.group.all_reduce(hidden)
        return self.group.all_gather(hidden, dim=-1) if self.slots.plan.family.shards_output else hidden
