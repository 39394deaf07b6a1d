"""A sharded embedding gives nothing for an id outside the vocabulary; wrapped it gives the first id's row, or with an
adapter an IndexError.

Clause MATH-14. Release: 0.5.23.
"""

import torch
from served import Served, attempt, filled, on_rank, report
from sglang.srt.layers import vocab_parallel_embedding

on_rank(0, 2)
layer = filled(vocab_parallel_embedding.VocabParallelEmbedding(2, 1), 1.0)
ids = torch.tensor([1000])
expected = [layer(ids).tolist()] * 2
served = Served("embed_tokens", layer, (2, 1), vocab_size=2)
prefix = "base_model.model.model.embed_tokens.lora_embedding_"
served.load({prefix + "A": torch.ones(1, 2), prefix + "B": torch.ones(1, 1)})
report(expected, [attempt(lambda: served.run(ids, [slot]).tolist()) for slot in (0, 1)])
