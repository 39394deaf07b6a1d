"""An adapter whose modules have ranks of their own, as PEFT's rank_pattern gives them, ends in an error of sizes.

Clauses MATH-1, LIFE-1. Release: 0.5.23.
"""

import torch
from served import Served, attempt, filled, pair, report
from sglang.srt.layers import linear

layer = filled(linear.MergedColumnParallelLinear(2, [1, 1], bias=False))
served = Served("layers.0.gate_up_proj", layer, (2, 2))
tensors = pair("layers.0.gate_proj", torch.ones(2, 2), torch.ones(1, 2))
tensors |= pair("layers.0.up_proj", torch.ones(1, 2), torch.ones(1, 1))


def loaded():
    served.load(tensors, r=2, lora_alpha=2, rank_pattern={"up_proj": 1}, alpha_pattern={"up_proj": 1})
    return served.run(torch.ones(1, 2), [1])[0].tolist()


report([[4.0, 2.0]], attempt(loaded))
