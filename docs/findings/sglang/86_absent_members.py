"""An adapter without some members of a packed layer ends in an error: q_proj alone, v_proj alone, or up_proj alone.

Clause MATH-8. Release: 0.5.23.
"""

import torch
from served import Served, attempt, filled, pair, report
from sglang.srt.layers import linear

ONES = torch.ones(1, 2), torch.ones(2, 1)


def served_with(name, member):
    qkv = name == "qkv_proj"
    layer = linear.QKVParallelLinear(2, 1, 2, 2, bias=False) if qkv else None
    layer = filled(layer or linear.MergedColumnParallelLinear(2, [2, 2], bias=False))
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 1} if qkv else {}
    served = Served(f"layers.0.{name}", layer, (2, layer.output_size), **heads)
    served.load(pair(f"layers.0.{member}", *ONES))
    return served.run(torch.ones(1, 2), [1])[0].tolist()


got = [attempt(lambda: served_with("qkv_proj", member)) for member in ("q_proj", "v_proj")]
got.append(attempt(lambda: served_with("gate_up_proj", "up_proj")))
report([[[2.0, 2.0, 0.0, 0.0, 0.0, 0.0]], [[0.0, 0.0, 0.0, 0.0, 2.0, 2.0]], [[0.0, 0.0, 2.0, 2.0]]], got)
