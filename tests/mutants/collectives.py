"""Bugs of collectives: ranks that disagree, collectives nobody needs, and a base layer that fails by itself (COMM)."""

from __future__ import annotations

import threading

import torch

from lora_compat.delta import LoRADelta
from lora_compat.families import Family
from lora_compat.parallel import current_group
from lora_compat.quantization import UnquantizedLinearMethod
from lora_compat.wrapper import LoRALinear
from tests.mutants.planting import plant


@plant(LoRADelta, "_collect", origin="one rank", clauses="COMM-1", anomalies="collective-mismatch")
def the_last_rank_does_not_gather(original):
    """The last rank skips the collective of sharded adapters."""

    def collect(self, hidden):
        if self.group.rank == self.group.size - 1:
            return torch.cat([hidden] * self.group.size, dim=-1) if self.slots.plan.family.shards_output else hidden
        return original(self, hidden)

    return collect


@plant(LoRADelta, "_collect", origin="shapes by rank", clauses="COMM-1", anomalies="collective-mismatch")
def the_first_rank_gathers_more(original):
    """The first rank gathers a hidden that is padded by one column."""

    def collect(self, hidden):
        if self.group.rank == 0 and self.slots.plan.family is not Family.REPLICATED:
            return original(self, torch.nn.functional.pad(hidden, (0, 1)))[..., : self.slots.lora_b.shape[-1]]
        return original(self, hidden)

    return collect


@plant(LoRADelta, "_collect", origin="dtypes by rank", clauses="COMM-1", anomalies="collective-mismatch")
def ranks_disagree_about_the_dtype(original):
    """Odd ranks hand over their hidden in double precision."""

    def collect(self, hidden):
        return original(self, hidden.double() if self.group.rank % 2 else hidden).to(hidden.dtype)

    return collect


@plant(LoRADelta, "add_to", origin="early exits", clauses="COMM-1 MATH-1", anomalies="collective-mismatch")
def a_rank_without_rows_leaves_early(original):
    """A rank that holds no rows of the adapters' A skips them, and with them the collective."""

    def add_to(self, output, x):
        if not bool(self.slots.lora_a.any()):
            self.served += 1
            return output
        return original(self, output, x)

    return add_to


def agreed_over(group_of):
    """`LoRALinear.forward` that first makes sure that all ranks of a group have adapters active."""

    def mutate(original):
        def forward(self, *args, **kwargs):
            group_of(self).all_reduce(torch.ones(1))
            return original(self, *args, **kwargs)

        return forward

    return mutate


@plant(LoRALinear, "forward", origin="S1 under disable_tp", clauses="COMM-2", anomalies="collective-mismatch")
def ranks_agree_first(original):
    """Every forward sums a flag over the whole group, even where the layer has disable_tp."""
    return agreed_over(lambda self: current_group())(original)


@plant(LoRALinear, "forward", origin="a group of one", clauses="COMM-2", anomalies="collective-mismatch")
def a_group_of_one_agrees_too(original):
    """A flag is summed over a group of one rank."""
    return agreed_over(lambda self: current_group() if current_group().size == 1 else self.delta.group)(original)


@plant(LoRADelta, "add_to", origin="waiting for a rank", clauses="MATH-1", anomalies="error")
def the_last_rank_waits_forever(original):
    """The last rank waits for something that never comes (for a quarter of a minute)."""

    def add_to(self, output, x):
        if 0 < self.group.size - 1 == self.group.rank:
            threading.Event().wait(15)
        return original(self, output, x)

    return add_to


@plant(UnquantizedLinearMethod, "apply", origin="the base layer's own", clauses="MATH-1", anomalies="error")
def the_base_layer_raises(original):
    """The base layer's matmul raises, adapters or not: nothing is known of the implementation."""

    def apply(self, layer, x, bias=None):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    return apply
