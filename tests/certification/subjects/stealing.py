"""A class that reads ``.weight`` around the quant method."""

from torch.nn import functional

from lora_compat import ReplicatedLinear


class StealingLinear(ReplicatedLinear):
    def forward(self, input_):
        return functional.linear(input_, self.weight, self.bias), None


class OutOfReachLinear(ReplicatedLinear):
    """Reads it in a way that no adapter can be added to."""

    def forward(self, input_):
        return (input_.unsqueeze(-2) * self.weight.data.detach()).sum(-1), None
