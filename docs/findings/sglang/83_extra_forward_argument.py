"""A forward with an argument of its own cannot be called any more once the layer is wrapped.

Clauses WRAP-4, MATH-1. Release: 0.5.23.
"""

import torch
from served import Served, attempt, filled, report
from sglang.srt.layers import linear


class Gated(linear.ColumnParallelLinear):
    def forward(self, input_, gate):
        output, bias = super().forward(input_)
        return output * gate, bias


layer = filled(Gated(2, 1, bias=False), 1.0)
x, gate = torch.ones(1, 2), torch.tensor([[3.0]])
expected = layer(x, gate)[0].tolist()
served = Served("layers.0.fc1", layer, (2, 1))
report(expected, attempt(lambda: served.run(x, [0], gate)[0].tolist()))
