"""A class whose forward takes one more argument, a factor for each token."""

from lora_compat import ReplicatedLinear


class GatedLinear(ReplicatedLinear):
    def forward(self, input_, gate):
        output, bias = super().forward(input_)
        return output * gate, bias
