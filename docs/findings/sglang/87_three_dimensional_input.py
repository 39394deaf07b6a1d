"""A layer that takes any number of leading dimensions takes two once it is wrapped.

Clause MATH-7. Release: 0.5.23.
"""

import torch
from served import Served, attempt, filled, pair, report
from sglang.srt.layers import linear

served = Served("layers.0.fc1", filled(linear.ColumnParallelLinear(2, 1, bias=False)), (2, 1))
served.load(pair("layers.0.fc1", torch.ones(1, 2), torch.ones(1, 1)))
report([[[2.0], [2.0]]], attempt(lambda: served.run(torch.ones(1, 2, 2), [1, 1])[0].tolist()))
