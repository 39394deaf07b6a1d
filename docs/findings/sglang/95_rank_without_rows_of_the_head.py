"""A rank that holds only padding of the LM head loses its share of the logits once an adapter is there.

Clause MATH-15. Release: 0.5.23.
"""

import torch
from served import Served, attempt, filled, on_rank, pair, report
from sglang.srt.layers import vocab_parallel_embedding

on_rank(1, 2)
layer = filled(vocab_parallel_embedding.ParallelLMHead(1, 2, padding_size=2))
served = Served("lm_head", layer, (2, 1), hidden_size=2, vocab_size=1)
x = torch.ones(1, 2)
expected = list(torch.nn.functional.linear(x, layer.weight).shape)
served.load(pair("lm_head", torch.ones(1, 2), torch.ones(1, 1)))
report(expected, attempt(lambda: list(served.run(x, [1]).shape)))
