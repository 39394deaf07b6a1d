"""Code that multiplies with the wrapped layer's weight itself, as fused paths do, gets the base weight without a word.

Clause WRAP-7. Release: 0.5.23.
"""

import torch
from served import Served, attempt, filled, pair, report
from sglang.srt.layers import linear

served = Served("layers.0.fc1", filled(linear.ColumnParallelLinear(2, 1, bias=False)), (2, 1))
served.load(pair("layers.0.fc1", torch.ones(1, 2), torch.ones(1, 1)))
expected = served.run(torch.ones(1, 2), [1])[0].tolist()
report(expected, attempt(lambda: torch.nn.functional.linear(torch.ones(1, 2), served.lora.weight).tolist()))
