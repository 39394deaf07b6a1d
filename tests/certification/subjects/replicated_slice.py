"""A sharded class whose last output is whole on every rank."""

from lora_compat import MergedColumnParallelLinear
from lora_compat.parallel import tensor_parallel_size


class ReplicatedSliceLinear(MergedColumnParallelLinear):
    def __init__(self, input_size, output_sizes, bias=False):
        *cut, whole = output_sizes
        super().__init__(input_size, [*cut, whole * tensor_parallel_size()], bias=bias)

    def weight_loader(self, param, loaded_weight, shard_id=None):
        last = len(self.output_partition_sizes) - 1
        if shard_id != last:
            super().weight_loader(param, loaded_weight, shard_id)
        else:
            start = sum(self.output_partition_sizes[:last])
            param.data.narrow(0, start, self.output_partition_sizes[last]).copy_(loaded_weight)
