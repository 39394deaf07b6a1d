"""A subclass's own forward is not called any more once the layer is wrapped, with an adapter or without.

Clauses MATH-1, WRAP-4. Release: 0.5.23.
"""

import torch
from served import Served, attempt, filled, report
from sglang.srt.layers import linear


class Doubled(linear.ColumnParallelLinear):
    def forward(self, input_):
        output, bias = super().forward(input_)
        return 2 * output, bias


layer = filled(Doubled(2, 1, bias=False), 1.0)
expected = layer(torch.ones(1, 2))[0].tolist()
served = Served("layers.0.fc1", layer, (2, 1))
report(expected, attempt(lambda: served.run(torch.ones(1, 2), [0])[0].tolist()))
