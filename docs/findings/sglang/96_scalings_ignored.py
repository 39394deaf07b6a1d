"""Rank-stabilised scaling and PEFT's alpha_pattern are read over: the adapter is applied with alpha / r all the same.

Clauses MATH-12, LIFE-1. Release: 0.5.23.
"""

import torch
from served import Served, attempt, filled, pair, report
from sglang.srt.layers import linear

served = Served("layers.0.fc1", filled(linear.ColumnParallelLinear(2, 1, bias=False)), (2, 1))


def scaled(**config):
    served.load(pair("layers.0.fc1", torch.ones(4, 2), torch.ones(1, 4)), r=4, lora_alpha=4, **config)
    return served.run(torch.ones(1, 2), [1])[0].tolist()


got = [attempt(lambda: scaled(use_rslora=True)), attempt(lambda: scaled(alpha_pattern={"fc1": 8}))]
report([[[16.0]], [[16.0]]], got)
