"""Two-dimensional ids, which the embedding takes, end in an error of sizes once it is wrapped and an adapter is there.

Clause MATH-14. Release: 0.5.23.
"""

import torch
from served import Served, attempt, filled, report
from sglang.srt.layers import vocab_parallel_embedding

layer = filled(vocab_parallel_embedding.VocabParallelEmbedding(2, 1))
served = Served("embed_tokens", layer, (2, 1), vocab_size=2)
prefix = "base_model.model.model.embed_tokens.lora_embedding_"
served.load({prefix + "A": torch.ones(1, 2), prefix + "B": torch.ones(1, 1)})
report([[[1.0], [1.0]]], attempt(lambda: served.run(torch.tensor([[0, 1]]), [1, 1]).tolist()))
