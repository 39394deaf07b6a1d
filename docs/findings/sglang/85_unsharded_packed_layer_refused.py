"""A QKV layer that keeps out of tensor parallelism takes no adapter: the pool cuts its slots by the layer's name.

Clauses MATH-1, WRAP-1, COMM-2. Release: 0.5.23.
"""

import torch
from served import Served, attempt, filled, on_rank, pair, report
from sglang.srt.layers import linear

on_rank(0, 2)
layer = filled(linear.QKVParallelLinear(2, 1, 2, 2, bias=False, parallel_group="replicated"))
heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 1}
served = Served("layers.0.qkv_proj", layer, (2, 6), **heads)


def loaded():
    served.load(pair("layers.0.qkv_proj", torch.ones(1, 2), torch.ones(6, 1)))
    return served.run(torch.ones(1, 2), [1])[0].tolist()


report([[2.0] * 6], attempt(loaded))
