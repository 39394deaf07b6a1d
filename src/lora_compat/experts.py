"""A mixture of experts with vLLM's weight names: ``w13_weight`` holds gate and up projections, ``w2_weight`` down.

Under tensor parallelism every rank holds a part of every expert's intermediate size; with ``expert_parallel`` every
rank holds some experts whole. Either way the ranks' outputs are summed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lora_compat.layers.base import copy_into, divide
from lora_compat.parallel import TensorParallelGroup, current_group
from lora_compat.quantization import set_loading
from lora_compat.sharding import part_of, take

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": functional.silu,
    "gelu": functional.gelu,
    "relu": functional.relu,
}
ELSEWHERE = -1


class UnquantizedExpertsMethod:
    """Every expert's weight as it was loaded."""

    def apply(self, layer: Any, x: Tensor, experts: Tensor, name: str) -> Tensor:
        """``x[i] · W[experts[i]]ᵀ`` for ``x [pairs, in]``; zeros where the expert is `ELSEWHERE`.

        Args:
            layer: the layer whose weights they are.
            x: one row for each pair of token and expert.
            experts: the local expert of each row.
            name: ``w13_weight`` or ``w2_weight``.
        """
        weight: Tensor = getattr(layer, name)
        output = x.new_zeros(x.shape[0], weight.shape[1])
        for expert in set(experts.tolist()):
            if expert != ELSEWHERE:
                mine = experts == expert
                output[mine] = functional.linear(x[mine], weight[expert])
        return output


class FusedMoE(nn.Module):
    """``Σ_k weight_k · W2·(act(W1·x) · W3·x)`` over the experts that each token is routed to."""

    w13_weight: nn.Parameter
    w2_weight: nn.Parameter

    def __init__(
        self,
        num_experts: int,
        top_k: int,
        hidden_size: int,
        intermediate_size: int,
        params_dtype: torch.dtype | None = None,
        activation: str = "silu",
        prefix: str = "",
        *,
        expert_parallel: bool = False,
    ) -> None:
        super().__init__()
        self.group: TensorParallelGroup = current_group()
        self.use_ep = expert_parallel
        self.tp_rank, self.tp_size = (0, 1) if expert_parallel else (self.group.rank, self.group.size)
        self.ep_rank, self.ep_size = (self.group.rank, self.group.size) if expert_parallel else (0, 1)
        self.global_num_experts, self.top_k = num_experts, top_k
        self.local_num_experts = divide(num_experts, self.ep_size, "num_experts")
        self.hidden_size, self.intermediate_size = hidden_size, intermediate_size
        self.intermediate_size_per_partition = divide(intermediate_size, self.tp_size, "intermediate_size")
        self.params_dtype = params_dtype or torch.get_default_dtype()
        self.activation = ACTIVATIONS[activation]
        self.quant_method = UnquantizedExpertsMethod()
        part = self.intermediate_size_per_partition
        for name, shape in (("w13_weight", (2 * part, hidden_size)), ("w2_weight", (hidden_size, part))):
            data = torch.empty(self.local_num_experts, *shape, dtype=self.params_dtype)
            weight = nn.Parameter(data, requires_grad=False)
            set_loading(weight, self.weight_loader, output_dim=None, input_dim=None)
            self.register_parameter(name, weight)

    @property
    def columns(self) -> range:
        """The intermediate columns that this rank holds of every expert."""
        return part_of(self.intermediate_size, self.tp_rank, self.tp_size)

    @property
    def experts(self) -> range:
        """The experts that this rank holds."""
        return part_of(self.global_num_experts, self.ep_rank, self.ep_size)

    def weight_loader(self, param: nn.Parameter, loaded_weight: Tensor, shard_id: str, expert_id: int) -> None:
        """Copies this rank's part of one expert's checkpoint tensor; ``shard_id`` is ``w1``, ``w2`` or ``w3``."""
        if expert_id not in self.experts:
            return
        target = param.data[expert_id - self.experts.start]
        if shard_id == "w2":
            copy_into(target, take(loaded_weight, self.columns, dim=1))
        else:
            gate, up = target.chunk(2)
            copy_into(gate if shard_id == "w1" else up, take(loaded_weight, self.columns, dim=0))

    def forward(self, hidden_states: Tensor, topk_weights: Tensor, topk_ids: Tensor) -> Tensor:
        """The experts' weighted sum ``[tokens, hidden]`` for ``hidden_states`` of that shape.

        ``topk_ids [tokens, top_k]`` are global experts, ``topk_weights`` their weights.
        """
        held = (topk_ids >= self.experts.start) & (topk_ids < self.experts.stop)
        local = torch.where(held, topk_ids - self.experts.start, ELSEWHERE).flatten()
        pairs = hidden_states.repeat_interleave(topk_ids.shape[1], dim=0)
        gate, up = self.quant_method.apply(self, pairs, local, "w13_weight").chunk(2, dim=-1)
        output = self.quant_method.apply(self, self.activation(gate) * up, local, "w2_weight")
        weighted = output.view(*topk_ids.shape, self.hidden_size) * topk_weights.unsqueeze(-1).to(output.dtype)
        total = weighted.sum(dim=1)
        return self.group.all_reduce(total) if self.group.size > 1 else total
