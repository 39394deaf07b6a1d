"""An adapter whose B has a row too many for its layer is taken, and that row is dropped without a word.

Clause LIFE-3. Release: 0.5.23.
"""

import torch
from served import Served, attempt, filled, pair, report
from sglang.srt.layers import linear

served = Served("layers.0.fc1", filled(linear.ColumnParallelLinear(2, 1, bias=False)), (2, 1))
said = attempt(lambda: served.load(pair("layers.0.fc1", torch.ones(1, 2), torch.ones(2, 1))) or "taken")
report("an error", "an error" if "Error" in said else said)
