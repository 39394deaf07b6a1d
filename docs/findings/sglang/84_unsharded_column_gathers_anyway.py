"""A column layer that keeps out of tensor parallelism gathers over all ranks once it is wrapped.

Clauses COMM-2, MATH-1. Release: 0.5.23.
"""

import torch
from served import Served, attempt, filled, on_rank, report
from sglang.srt.layers import linear

group = on_rank(0, 2)
layer = linear.ColumnParallelLinear(2, 1, bias=False, gather_output=True, parallel_group="replicated")
filled(layer, 1.0)
expected = layer(torch.ones(1, 2))[0].tolist(), list(group.issued)
served = Served("layers.0.fc1", layer, (2, 1))
report(expected, attempt(lambda: (served.run(torch.ones(1, 2), [0])[0].tolist(), group.issued)))
