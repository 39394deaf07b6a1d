"""A class that is right where it is served, and refused elsewhere."""

from lora_compat import ReplicatedLinear
from lora_compat.errors import UnsupportedLayerError
from lora_compat.sharding import ShardPlan


class WithBiasAloneLinear(ReplicatedLinear):
    """With a forward of its own, which may be refused; can say what its rows are only where it has a bias."""

    def forward(self, input_):
        return super().forward(input_)

    def shard_plan(self, *, fully_sharded):
        if self.bias is None:
            raise UnsupportedLayerError(self, "it has no bias")
        plain = ReplicatedLinear(self.input_size, self.output_size)
        return ShardPlan.of(plain, fully_sharded=fully_sharded)
