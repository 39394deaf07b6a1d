"""Bugs that need more than one rank: what it gathers or sums of the others."""

from __future__ import annotations

import torch

from lora_compat.delta import LoRADelta
from lora_compat.families import Family
from lora_compat.layers import ColumnParallelLinear, RowParallelLinear
from tests.mutants.planting import plant


@plant(LoRADelta, "add_to", origin="S1, vllm #45691", clauses="MATH-1 MATH-6", anomalies="raised gather-inflated")
def always_gathered(original):
    """A merged layer gathers the shrunk hidden though its adapters are not sharded."""

    def add_to(self, output, x):
        plan = self.slots.plan
        if not plan.family.packed or plan.fully_sharded or self.group.size == 1:
            return original(self, output, x)
        hidden = torch.zeros(x.numel() // x.shape[-1], len(plan.slices), self.slots.lora_a.shape[2])
        gathered = self.group.all_gather(hidden, dim=-1)
        assert gathered.shape[-1] == self.slots.lora_b.shape[-1], "B does not have the columns of the gathered hidden"
        return original(self, output, x)

    return add_to


@plant(LoRADelta, "_collect", origin="a collective forgotten", clauses="MATH-1 MATH-6", anomalies="gather-skipped")
def no_gather_just_copies(original):
    """A rank repeats its own part of the shrunk hidden instead of gathering the others'."""

    def collect(self, hidden):
        if self.slots.plan.family.shards_output:
            return torch.cat([hidden] * self.group.size, dim=-1)
        return original(self, hidden)

    return collect


@plant(LoRADelta, "_collect", origin="a collective forgotten", clauses="MATH-1 MATH-6", anomalies="gather-skipped")
def no_sum_of_the_hidden(original):
    """A fully sharded row-parallel layer does not sum the shrunk hidden."""

    def collect(self, hidden):
        return hidden if self.slots.plan.family is Family.ROW else original(self, hidden)

    return collect


@plant(
    LoRADelta,
    "_collect",
    origin="order of the ranks",
    clauses="MATH-1 MATH-6",
    anomalies="gather-skipped gather-misordered",
)
def gathered_in_reverse(original):
    """The ranks' parts of the shrunk hidden are put together in reverse order."""

    def collect(self, hidden):
        whole = original(self, hidden)
        if self.slots.plan.family.shards_output and self.group.size > 1:
            return torch.cat(whole.chunk(self.group.size, dim=-1)[::-1], dim=-1)
        return whole

    return collect


@plant(LoRADelta, "add_to", origin="one rank", clauses="MATH-1 MATH-6", anomalies="delta-incomplete delta-dropped")
def the_last_rank_adds_nothing(original):
    """The last of several ranks computes its contribution and drops it."""

    def add_to(self, output, x):
        kept = output.clone()
        output = original(self, output, x)
        return kept if 0 < self.group.size - 1 == self.group.rank else output

    return add_to


@plant(RowParallelLinear, "forward", origin="bias once per rank", clauses="MATH-6", anomalies="tp-dependent")
def the_base_layer_adds_its_bias_on_every_rank(original):
    """The row-parallel base layer itself adds its bias once per rank."""

    def forward(self, input_):
        if not self.input_is_parallel and self.tp_size > 1:
            input_ = input_.chunk(self.tp_size, dim=-1)[self.tp_rank].contiguous()
        output = self.quant_method.apply(self, input_, None if self.skip_bias_add else self.bias)
        if self.reduce_results and self.tp_size > 1:
            output = self.tp_group.all_reduce(output)
        return self._result(output)

    return forward


@plant(ColumnParallelLinear, "forward", origin="order of the ranks", clauses="MATH-6", anomalies="tp-dependent")
def the_base_layer_gathers_in_reverse(original):
    """The column-parallel base layer itself puts the ranks' outputs together in reverse order."""

    def forward(self, input_):
        output = self.quant_method.apply(self, input_, None if self.skip_bias_add else self.bias)
        if self.gather_output and self.tp_size > 1:
            whole = self.tp_group.all_gather(output, dim=-1)
            output = torch.cat(whole.chunk(self.tp_size, dim=-1)[::-1], dim=-1)
        return self._result(output)

    return forward
