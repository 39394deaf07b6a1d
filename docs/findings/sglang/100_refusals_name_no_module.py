"""An adapter of too large a rank is refused by an error that names no module.

Clause LIFE-3. Release: 0.5.23.
"""

import torch
from served import Managed, Model, filled, pair, report
from sglang.srt.layers import linear

layer = filled(linear.ColumnParallelLinear(2, 1, bias=False))
managed = Managed(Model("layers.0.fc1", layer, (2, 1)), {"fc1"}, max_rank=1)
said = managed.add("large", pair("layers.0.fc1", torch.ones(2, 2), torch.ones(1, 2)), r=2, lora_alpha=2)
report("an error that names fc1", "an error that names fc1" if "fc1" in said else said)
