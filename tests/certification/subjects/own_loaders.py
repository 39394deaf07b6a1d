"""Classes with weight loaders of their own, each of a way that classes of vLLM have."""

from lora_compat import (
    ColumnParallelLinear,
    Family,
    MergedColumnParallelLinear,
    OutputSlice,
    QKVParallelLinear,
    RowParallelLinear,
    ShardPlan,
)
from lora_compat.parallel import current_group, tensor_parallel_size


class AsRankZeroLinear(MergedColumnParallelLinear):
    """The last output is whole on every rank: the family's loader is told that it is on rank 0."""

    def __init__(self, input_size, output_sizes, bias=False):
        super().__init__(input_size, [*output_sizes[:-1], output_sizes[-1] * tensor_parallel_size()], bias)

    def weight_loader(self, param, loaded_weight, shard_id=None):
        rank = self.tp_rank
        if shard_id == len(self.output_sizes) - 1:
            self.tp_rank = 0
        try:
            super().weight_loader(param, loaded_weight, shard_id)
        finally:
            self.tp_rank = rank


class WithIndexerLinear(QKVParallelLinear):
    """Packs two more outputs behind q, k and v: one goes with the KV heads, the other is whole on every rank."""

    EXTRA = ("index_q", "index_k")

    def _partition_sizes(self):
        q, k, v = super()._partition_sizes()
        return [q, k, v, k, self.head_size]

    def weight_loader(self, param, loaded_weight, shard_id=None):
        if shard_id not in self.EXTRA:
            super().weight_loader(param, loaded_weight, shard_id)
            return
        place = 3 + self.EXTRA.index(shard_id)
        start, rows = sum(self.output_partition_sizes[:place]), self.output_partition_sizes[place]
        rank = self.tp_rank // self.num_kv_head_replicas if shard_id == "index_q" else self.tp_rank * 0
        param.data[start : start + rows].copy_(loaded_weight.narrow(0, rank * rows, rows))


class NamedPartsLinear(ColumnParallelLinear):
    """A column layer that packs three outputs, by names that only its loader knows."""

    def weight_loader(self, param, loaded_weight, shard_id=None):
        size = param.data.shape[0] // 4
        if shard_id == "query":
            start, rows = 0, 2 * size
        elif shard_id == "key":
            start, rows = 2 * size, size
        elif shard_id == "gate":
            start, rows = 3 * size, size
        else:
            raise ValueError(f"unknown shard id {shard_id!r}")
        param.data[start : start + rows].copy_(loaded_weight.narrow(0, self.tp_rank * rows, rows))


class BoundWhenBuiltLinear(ColumnParallelLinear):
    """Cut by the family's rule, by a rank that it knows from its construction."""

    def __init__(self, input_size, output_size, bias=False):
        super().__init__(input_size, output_size, bias)
        self.first_row = current_group().rank * self.output_size_per_partition

    def weight_loader(self, param, loaded_weight):
        param.data.copy_(loaded_weight.narrow(0, self.first_row, param.data.shape[0]))


class BoundByItsOwnRuleLinear(MergedColumnParallelLinear):
    """Chooses the rows of its last output when it is built: they go to the ranks in reverse."""

    def __init__(self, input_size, output_sizes, bias=False):
        super().__init__(input_size, output_sizes, bias)
        group = current_group()
        self.first_row = (group.size - 1 - group.rank) * self.output_partition_sizes[-1]

    def weight_loader(self, param, loaded_weight, shard_id=None):
        rows = self.output_partition_sizes[-1]
        if shard_id != len(self.output_sizes) - 1:
            super().weight_loader(param, loaded_weight, shard_id)
        else:
            param.data[-rows:].copy_(loaded_weight.narrow(0, self.first_row, rows))


class WithItsOwnPlanLinear(BoundByItsOwnRuleLinear):
    """Says itself what its loader does."""

    def shard_plan(self, *, fully_sharded):
        slices = [
            OutputSlice(rows * self.tp_size, range(self.tp_rank * rows, (self.tp_rank + 1) * rows))
            for rows in self.output_partition_sizes
        ]
        rows = self.output_partition_sizes[-1]
        slices[-1] = OutputSlice(rows * self.tp_size, range(self.first_row, self.first_row + rows))
        return ShardPlan(
            family=Family.MERGED_COLUMN,
            tp_rank=self.tp_rank,
            tp_size=self.tp_size,
            fully_sharded=fully_sharded and self.tp_size > 1,
            columns=range(self.input_size),
            slices=tuple(slices),
        )


class InReverseLinear(MergedColumnParallelLinear):
    """Puts the rows of each output in reverse, and so those of an adapter."""

    def weight_loader(self, param, loaded_weight, shard_id=None):
        super().weight_loader(param, loaded_weight.flip(0), shard_id)


class InterleavedLinear(MergedColumnParallelLinear):
    """Deals the rows of its two outputs in turn."""

    def weight_loader(self, param, loaded_weight, shard_id=None):
        rows = self.output_partition_sizes[0]
        param.data[shard_id :: len(self.output_sizes)].copy_(loaded_weight.narrow(0, self.tp_rank * rows, rows))


class AddingLinear(MergedColumnParallelLinear):
    """Adds one to every weight."""

    def weight_loader(self, param, loaded_weight, shard_id=None):
        super().weight_loader(param, loaded_weight + 1, shard_id)


class HalfLoadedLinear(MergedColumnParallelLinear):
    """Takes its second output from elsewhere."""

    def weight_loader(self, param, loaded_weight, shard_id=None):
        if shard_id == 1:
            raise ValueError("comes with another file")
        super().weight_loader(param, loaded_weight, shard_id)


class CarryingItsFamilysLoaderLinear(NamedPartsLinear):
    """Has a loader of its own and carries its family's, as a class on vLLM's layers that overrides one of the two."""

    def __init__(self, input_size, output_size, bias=False):
        super().__init__(input_size, output_size, bias)
        self.weight.weight_loader = super(NamedPartsLinear, self).weight_loader


class CarryingAnotherLoaderLinear(ColumnParallelLinear):
    """Binds a loader to its weight that is none of those its family has a name for: the ranks' rows in reverse."""

    def __init__(self, input_size, output_size, bias=False):
        super().__init__(input_size, output_size, bias)
        self.weight.weight_loader = self._from_the_end

    def _from_the_end(self, param, loaded_weight):
        rows = param.data.shape[0]
        param.data.copy_(loaded_weight.narrow(0, (self.tp_size - 1 - self.tp_rank) * rows, rows))


class CarryingAnotherRowLoaderLinear(RowParallelLinear):
    """The same for columns."""

    def __init__(self, input_size, output_size, bias=False):
        super().__init__(input_size, output_size, bias)
        self.weight.weight_loader = self._from_the_end

    def _from_the_end(self, param, loaded_weight):
        columns = param.data.shape[1]
        param.data.copy_(loaded_weight.narrow(1, (self.tp_size - 1 - self.tp_rank) * columns, columns))
