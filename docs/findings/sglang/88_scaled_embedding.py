"""An embedding whose forward scales, as EmbeddingGemma's does, gets the adapter's part unscaled, added behind that
forward.

Clause MATH-14. Release: 0.5.23.
"""

import torch
from served import Served, attempt, filled, report
from sglang.srt.layers import vocab_parallel_embedding


class Scaled(vocab_parallel_embedding.VocabParallelEmbedding):
    def forward(self, input_):
        return 4 * super().forward(input_)


served = Served("embed_tokens", filled(Scaled(2, 1), 1.0), (2, 1), vocab_size=2)
prefix = "base_model.model.model.embed_tokens.lora_embedding_"
served.load({prefix + "A": torch.ones(1, 2), prefix + "B": torch.ones(1, 1)})
report([[8.0]], attempt(lambda: served.run(torch.tensor([1]), [1]).tolist()))
