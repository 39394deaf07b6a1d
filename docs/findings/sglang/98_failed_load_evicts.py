"""Loading an adapter that does not fit has evicted another one by the time it is refused.

Clause LIFE-3. Release: 0.5.23.
"""

import torch
from served import Managed, Model, attempt, filled, pair, report
from sglang.srt.layers import linear

layer = filled(linear.ColumnParallelLinear(2, 1, bias=False))
managed = Managed(Model("layers.0.fc1", layer, (2, 1)), {"fc1"})
managed.add("fits", pair("layers.0.fc1", torch.ones(1, 2), torch.ones(1, 1)))
managed.add("too wide", pair("layers.0.fc1", torch.ones(1, 3), torch.ones(1, 1)))
managed.serve("fits", None)
attempt(lambda: managed.serve("too wide", None))
report(["fits"], managed.present())
