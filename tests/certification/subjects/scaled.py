"""A class that scales its output: wrapped by the reference right, by adding a delta to its result wrong."""

from lora_compat import ColumnParallelLinear


class ScaledLinear(ColumnParallelLinear):
    def forward(self, input_):
        output, bias = super().forward(input_)
        return output * 0.1, bias
