"""On the torch backend a replicated layer crashes once it is wrapped: its LoRA layer leaves out an argument.

Clause MATH-1. Release: 0.5.23.
"""

import torch
from served import Served, attempt, filled, pair, report
from sglang.srt.layers import linear

served = Served("layers.0.fc1_latent_proj", filled(linear.ReplicatedLinear(2, 2, bias=False)), (2, 2))
served.load(pair("layers.0.fc1_latent_proj", torch.ones(1, 2), torch.ones(2, 1)))
report([[2.0, 2.0]], attempt(lambda: served.run(torch.ones(1, 2), [1])[0].tolist()))
