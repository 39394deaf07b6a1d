"""What a class's own weight loader does with checkpoint tensors, found by asking it.

The loader is handed tensors whose rows are numbered, and writes them to scratch weights: which rows arrive where says
how the class is sharded. A loader that cuts takes tensors of any size, so it is asked as every rank in turn: the
largest row that any of them reads is the checkpoint tensor's last.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lora_compat.bound_loaders import Loader
from lora_compat.checkpoint_shards import CheckpointShard, ShardId, ShardingError
from lora_compat.quantization.protocol import stored_weight
from lora_compat.source_names import names_in


class OwnLoader:
    """The weight loader of a layer that has one of its own; it never writes to the layer's weight."""

    def __init__(self, layer: nn.Module, base: type, load: Loader, columns: int | None = None) -> None:
        """``load`` fills the weight; ``columns`` is given where each rank holds so many columns and all rows."""
        weight: Any = stored_weight(layer)
        built: Any = layer
        cls: Any = type(layer)
        self._layer, self._columns = built, columns
        self._load = load
        self._names = names_in(cls, base)
        self._taken: set[str] = set()
        # A scratch of the weight's class: vLLM's loaders call its methods.
        self._kind = getattr(type(weight), "_lora_kind", type(weight))
        self._attributes = {name: value for name, value in weight.__dict__.items() if not name.startswith("_lora")}
        if (self._attributes.get("output_dim"), self._attributes.get("input_dim")) == (1, 0):
            # A quant method has transposed the weight (FP8 in vLLM 0.32.0); the scratch lies as a checkpoint does.
            self._attributes |= {"output_dim": 0, "input_dim": 1}
        self._sizes = [int(size) for size in built.output_partition_sizes]
        # A class may replace the weight by one with more rows than its base has declared.
        whole = weight.is_floating_point() and weight.itemsize > 1 and getattr(weight, "output_dim", None) == 0
        self._rows = int(weight.shape[0]) if whole else sum(self._sizes)

    def written(self, tensor: Tensor, shard: ShardId) -> Tensor:
        """The local weight ``[local out, columns]``, zero but for what the loader writes of ``tensor``."""
        shape = (self._rows, tensor.shape[1]) if self._columns is None else (tensor.shape[0], self._columns)
        scratch: Any = Tensor._make_subclass(self._kind, tensor.new_zeros(shape))
        scratch.__dict__.update(self._attributes)
        self._load(scratch, tensor, *shard)
        result: Tensor = scratch.data
        return result

    def shards(
        self, ids: Iterable[ShardId], declared: Mapping[ShardId, Sequence[int]]
    ) -> tuple[CheckpointShard, ...] | None:
        """The shards with these ids that fill the local weight, in the order of their rows; None if they do not.

        ``declared`` has the rows that this rank holds by the family's rule, for the ids that have one.

        Raises:
            ShardingError: what the loader does with one of them cannot be followed.
        """
        found = [self._shard(one, declared.get(one)) for one in dict.fromkeys(ids)]
        taken = sorted((one for one in found if one is not None), key=lambda one: one.start)
        self._taken |= {_said(one.id) for one in taken}
        filled = [row for one in taken for row in range(one.start, one.start + len(one.rows))]
        return tuple(taken) if filled == list(range(self._rows)) else None

    @property
    def named_ids(self) -> list[ShardId]:
        """The names in the class's own source, any of which may be a shard id."""
        return [(name,) for name in self._names]

    def refusal(self) -> ShardingError:
        """Of a loader whose shards fill the weight in none of the ways tried."""
        taken = ", ".join(sorted(self._taken)) or "none"
        return ShardingError(
            self._layer,
            "its weight loader fills some rows of the weight never, or twice, with the tensors it was seen to take "
            f"({taken})",
        )

    def _shard(self, shard: ShardId, declared: Sequence[int] | None) -> CheckpointShard | None:
        size = self._rows * int(self._layer.tp_size)
        places = self._places(size, shard)
        if places is not None and places == self._places(size + 1, shard):
            size = self._size_for_all_ranks(shard, places, declared) if places else 0
        else:
            size, places = self._exact(shard, declared)
        if not places:
            return None
        start = min(places)
        if list(places) != list(range(start, start + len(places))):
            raise ShardingError(self._layer, f"its weight loader scatters the rows of {_said(shard)} over the weight")
        return CheckpointShard(shard, size, start, tuple(places.values()))

    def _exact(self, shard: ShardId, declared: Sequence[int] | None) -> tuple[int, dict[int, int]]:
        """Size and places of a tensor that the loader does not just cut; the family's size is tried first."""
        tp_size = int(self._layer.tp_size)
        likely = [len(declared) * tp_size, len(declared)] if declared is not None else []
        for size in dict.fromkeys([*likely, *sorted({n * k for n in self._sizes for k in range(1, tp_size + 1)})]):
            places = self._places(size, shard)
            # One row written to many is a broadcast, not what the checkpoint has.
            if places and len(set(places.values())) == len(places):
                return size, places
        return 0, {}

    def _size_for_all_ranks(self, shard: ShardId, places: Mapping[int, int], declared: Sequence[int] | None) -> int:
        """Checkpoint rows of a tensor that the loader cuts: it would cut a larger one as well."""
        own, tp_size = list(places.values()), int(self._layer.tp_size)
        if tp_size == 1:
            return max(own) + 1
        rows, rank = self._rows * tp_size, int(self._layer.tp_rank)
        read = {rank: own}
        # A rank at the other end tells enough of a loader that keeps to its family's rule; should it leave the rule
        # on a rank between, that rank asks them all, and the ranks' plans refuse each other's adapters.
        ends = {0, tp_size - 1} if declared is not None and own == list(declared) else set()
        for others in (ends, set(range(tp_size))):
            for other in others - set(read):
                with self._posing(other):
                    read[other] = list((self._places(rows, shard) or {}).values())
            if others and len({tuple(one) for one in read.values()}) > 1:
                break
        if any(one != own for one in read.values()):
            return max(map(max, filter(None, read.values()))) + 1
        with self._posing(None):
            asks = self._places(rows, shard) is None
        if asks or (min(own) == 0 and rank > 0):  # the same rows whatever the rank: replicated
            return max(own) + 1
        if declared is not None and own == list(declared):  # which were chosen when the layer was built
            return len(declared) * tp_size
        raise ShardingError(
            self._layer,
            f"its weight loader takes rows of {_said(shard)} that were chosen when the layer was built, and not by "
            "its family's rule, so how many rows the checkpoint has cannot be known",
        )

    @contextmanager
    def _posing(self, rank: int | None) -> Iterator[None]:
        """Inside the block the layer says that it is on ``rank``; None: it does not say."""
        saying = [said for said in (vars(self._layer), self._attributes) if "tp_rank" in said]
        own = [said.pop("tp_rank") for said in saying]
        if rank is not None:
            for said in saying:
                said["tp_rank"] = rank
        try:
            yield
        finally:
            for said, before in zip(saying, own, strict=True):
                said["tp_rank"] = before

    def _places(self, rows: int, shard: ShardId) -> dict[int, int] | None:
        """The checkpoint row that each local row is loaded from; None where a tensor of ``rows`` is not taken.

        Raises:
            ShardingError: a local row is not some checkpoint row times a factor.
        """
        number = torch.arange(rows, dtype=torch.float64)
        probe = torch.stack((torch.ones_like(number), -number, number * number, torch.zeros_like(number)), 1)
        try:
            written = self.written(probe, shard).tolist()
        except Exception:  # the loader's own, whatever it is
            return None
        places = {}
        for local, row in enumerate(written):
            if not any(row):
                continue
            factor, first, second, nothing = row
            if nothing or not abs(first * first - factor * second) <= 1e-9 * abs(factor * second):
                raise ShardingError(self._layer, f"its weight loader changes the rows of {_said(shard)}")
            if factor:
                places[local] = round(-first / factor)
        return places


def _said(shard: ShardId) -> str:
    return f"shard {shard[0]!r}" if shard else "the whole tensor"
