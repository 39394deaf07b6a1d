"""A module that is reachable under two names is wrapped under one of them: under the other it has no adapter.

Clauses WRAP-5, MATH-8, LIFE-1. Release: 0.5.23.
"""

import torch
from served import Managed, Model, filled, pair, report
from sglang.srt.layers import linear

layer = filled(linear.ColumnParallelLinear(2, 1, bias=False))
model = Model("layers.0.fc1", layer, (2, 1))
model.layers.get_submodule("0").shared = torch.nn.ModuleDict({"fc1": layer})
managed = Managed(model, {"fc1"})
managed.add("one", pair("layers.0.fc1", torch.ones(1, 2), torch.ones(1, 1)))
managed.serve("one")
names = "layers.0.fc1", "layers.0.shared.fc1"
report([[[2.0]], [[2.0]]], [model.get_submodule(name)(torch.ones(1, 2))[0].tolist() for name in names])
