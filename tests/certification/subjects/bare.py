"""A class that returns a bare tensor, whatever its base returns."""

from lora_compat import RowParallelLinear


class BareTensorLinear(RowParallelLinear):
    def forward(self, input_):
        result = super().forward(input_)
        return result[0] if isinstance(result, tuple) else result
