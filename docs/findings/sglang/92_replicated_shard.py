"""A merged layer with one output that is whole on every rank takes no adapter: that output's B is cut by rank.

Clause MATH-1. Release: 0.5.23.
"""

import torch
from served import Served, attempt, on_rank, pair, report
from sglang.srt.layers import linear

on_rank(1, 2)


class Shared(linear.MergedColumnParallelLinear):
    """The second output is the same on every rank."""

    def __init__(self):
        super().__init__(2, [2, 2 * 1], bias=False)

    def weight_loader(self, param, loaded_weight, loaded_shard_id=None):
        if loaded_shard_id == 1:
            param.data[1:].copy_(loaded_weight)
        else:
            super().weight_loader(param, loaded_weight, loaded_shard_id)


layer = Shared()
layer.weight.weight_loader(layer.weight, torch.zeros(2, 2), 0)
layer.weight.weight_loader(layer.weight, torch.zeros(1, 2), 1)
served = Served("layers.0.gate_up_proj", layer, (2, 3))


def loaded():
    tensors = pair("layers.0.gate_proj", torch.ones(1, 2), torch.ones(2, 1))
    served.load(tensors | pair("layers.0.up_proj", torch.ones(1, 2), torch.ones(1, 1)))
    return served.run(torch.ones(1, 2), [1])[0].tolist()


report([[2.0, 2.0]], attempt(loaded))
