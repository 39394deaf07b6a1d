"""Slot buffers: the stacked LoRA weights of one layer, one slot per adapter that is served at once."""

from __future__ import annotations

import torch

from lora_compat.adapters import LayerAdapter, LoRAConfig, SubAdapter, assign_parts
from lora_compat.errors import AdapterShapeError, SlotError
from lora_compat.kernels import accumulation_dtype
from lora_compat.sharding import ShardPlan


class SlotBuffers:
    """``lora_a [slots, slices, local rank, local in]``, ``lora_b [slots, local out, rank]``, ``scaling [slots]``.

    A slot is written whole, so nothing of its former adapter survives (MATH-5), and only once every shape has been
    checked, so a refused adapter leaves it as it was (LIFE-3).
    """

    def __init__(
        self,
        plan: ShardPlan,
        config: LoRAConfig,
        *,
        dtype: torch.dtype,
        device: torch.device,
        module: str = "",
    ) -> None:
        self.plan = plan
        self.max_rank = config.max_lora_rank
        self.module = module
        self._members = range(config.max_loras)
        rank = plan.local_rank(config.max_lora_rank)
        columns = len(plan.columns)
        self.lora_a = torch.zeros(config.max_loras, len(plan.slices), rank, columns, dtype=dtype, device=device)
        self.lora_b = torch.zeros(
            config.max_loras, len(plan.expanded), rank * plan.rank_shards, dtype=dtype, device=device
        )
        self.scaling = torch.zeros(config.max_loras, dtype=accumulation_dtype(dtype), device=device)

    def load(self, slot: int, adapter: LayerAdapter) -> None:
        """Writes ``adapter`` into ``slot``.

        Raises:
            SlotError: there is no such slot.
            AdapterShapeError, AmbiguousPartsError: a tensor does not fit the layer; the slot is untouched.
        """
        self._require(slot)
        covered = self._cover(adapter)
        lora_a, lora_b = torch.zeros_like(self.lora_a[slot]), torch.zeros_like(self.lora_b[slot])
        for part, slices in covered:
            rows = torch.split(part.lora_b, [self.plan.slices[i].size for i in slices])
            local_a = self.plan.shard_a(part.lora_a, self.max_rank)
            for index, b in zip(slices, rows, strict=True):
                lora_a[index, : local_a.shape[0]] = local_a
                local_b = self.plan.shard_b(b, index)
                start = sum(self.plan.expanded_slice_sizes[:index])
                lora_b[start : start + local_b.shape[0], : part.rank] = local_b
        self.lora_a[slot], self.lora_b[slot] = lora_a, lora_b
        self.scaling[slot] = adapter.scaling

    @property
    def max_loras(self) -> int:
        """How many slots there are."""
        return len(self._members)

    def check(self, adapter: LayerAdapter) -> None:
        """Whether ``adapter`` would load into any slot.

        Raises:
            AdapterShapeError, AmbiguousPartsError: a tensor does not fit the layer.
        """
        self._cover(adapter)

    def saved(self, slot: int) -> tuple[torch.Tensor, ...]:
        """A copy of what ``slot`` holds, for `restore`."""
        self._require(slot)
        return tuple(buffer[slot].clone() for buffer in (self.lora_a, self.lora_b, self.scaling))

    def restore(self, slot: int, saved: tuple[torch.Tensor, ...]) -> None:
        """Puts back what `saved` copied."""
        for buffer, content in zip((self.lora_a, self.lora_b, self.scaling), saved, strict=True):
            buffer[slot] = content

    def reset(self, slot: int) -> None:
        """Empties ``slot``."""
        self._require(slot)
        for buffer in (self.lora_a, self.lora_b, self.scaling):
            buffer[slot] = 0

    def _require(self, slot: int) -> None:
        if slot not in self._members:
            raise SlotError(slot, len(self._members))

    def _cover(self, adapter: LayerAdapter) -> list[tuple[SubAdapter, range]]:
        sizes = [part.size for part in self.plan.slices]
        slices = assign_parts(adapter.parts, sizes, module=self.module)
        covered = [(part, where) for part, where in zip(adapter.parts, slices, strict=True) if part is not None]
        for part, _ in covered:
            self._check(part)
        return covered

    def _check(self, part: SubAdapter) -> None:
        width = self.plan.lora_width
        if part.rank > self.max_rank:
            raise AdapterShapeError(
                self.module,
                "LoRA A",
                expected=f"a rank of at most max_lora_rank={self.max_rank}",
                received=part.rank,
            )
        if tuple(part.lora_a.shape) != (part.rank, width):
            raise AdapterShapeError(
                self.module, "LoRA A", expected=(part.rank, width), received=tuple(part.lora_a.shape)
            )
        if part.lora_b.shape[1:] != (part.rank,):
            raise AdapterShapeError(
                self.module,
                "LoRA B",
                expected=f"rank {part.rank} as LoRA A",
                received=tuple(part.lora_b.shape),
            )
