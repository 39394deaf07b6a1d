"""Bugs of LoRA on a mixture of experts (MATH-16, RANK-6)."""

from __future__ import annotations

from dataclasses import replace

import torch

import lora_compat
from lora_compat import expert_adapters
from lora_compat.adapters import LayerAdapter, SubAdapter
from lora_compat.delta import LoRADelta
from lora_compat.expert_adapters import LoRAExperts
from lora_compat.kernels import NO_ADAPTER
from tests.mutants.planting import plant


@plant(LoRAExperts, "_place", origin="expert parallelism", clauses="MATH-16", anomalies="wrong-slot")
def slots_of_experts_overlap(original):
    """Adapters are spaced by one expert less than a rank holds."""
    return lambda self, slot, expert: slot * max(1, len(self.experts) - 1) + expert


@plant(LoRAExperts, "set_lora", origin="absent experts", clauses="MATH-16", anomalies="stale-slot")
def experts_without_an_adapter_are_left(original):
    """What the former adapter had for an expert that the new one lacks, or lacks a part of, stays."""

    def set_lora(self, slot, adapter):
        before = [saved.clone() for saved in self.saved(slot)]
        places = self._slots(slot)
        original(self, slot, adapter)
        each = len(before) // len(places)
        for index, (slots, place) in enumerate(places):
            b = slots.lora_b[place]
            if b.numel() and not b.any():  # sharded, a rank may hold no rows of it
                slots.restore(place, before[index * each : (index + 1) * each])

    return set_lora


@plant(LoRAExperts, "reset_lora", origin="slots of experts", clauses="MATH-16", anomalies="stale-slot")
def a_reset_empties_the_first_expert(original):
    """A slot that is reset is emptied for the first expert and its first product alone."""

    def reset_lora(self, slot):
        self._require(slot)
        slots, place = self._slots(slot)[0]
        slots.reset(place)

    return reset_lora


@plant(LoRAExperts, "_places", origin="top-k routing", clauses="MATH-16", anomalies="expert-skipped")
def only_the_first_expert_of_a_token(original):
    """A token's adapter serves the first of its experts."""

    def places(self, slots, experts, each):
        found = original(self, slots, experts, each)
        return [place if pair % each == 0 else NO_ADAPTER for pair, place in enumerate(found)]

    return places


@plant(LoRAExperts, "_places", origin="pairs and tokens", clauses="MATH-16", anomalies="wrong-slot")
def pairs_counted_the_other_way(original):
    """The adapter of a pair is looked up as if all first experts came before all second ones."""

    def places(self, slots, experts, each):
        return original(self, [slots[pair % len(slots)] for pair in range(len(experts))], experts, 1)

    return places


@plant(LoRAExperts, "_places", origin="adapter-less tokens", clauses="MATH-16", anomalies="adapter-leak")
def no_adapter_is_the_first(original):
    """A token without an adapter is served the first slot's."""
    return lambda self, slots, experts, each: original(self, [max(slot, 0) for slot in slots], experts, each)


@plant(expert_adapters, "_parts", origin="w1 and w3", clauses="MATH-16", anomalies="slices-swapped")
def gate_and_up_change_places(original):
    """Gate's adapter is loaded as up's where they come apart."""

    def parts(expert, scaling):
        return original(replace(expert, gate_up=expert.gate_up[::-1]), scaling)

    return parts


@plant(expert_adapters, "_parts", origin="fused gate and up", clauses="MATH-16", anomalies="slices-interleaved")
def fused_halves_are_interleaved(original):
    """A fused B is read as if rows of gate and up alternated, as gpt-oss stores them."""

    def parts(expert, scaling):
        found = original(expert, scaling)
        if len(expert.gate_up) == 1:
            (one,) = expert.gate_up
            b = torch.cat([one.lora_b[::2], one.lora_b[1::2]])
            found["w13_weight"] = LayerAdapter((SubAdapter(one.lora_a, b),), scaling)
        return found

    return parts


@plant(expert_adapters, "_parts", origin="scaling", clauses="MATH-16", anomalies="scale-dropped")
def down_is_not_scaled(original):
    """The scaling is lost for the down projection."""

    def parts(expert, scaling):
        return {**original(expert, scaling), "w2_weight": LayerAdapter((expert.down,), 1.0)}

    return parts


@plant(expert_adapters, "plans_of", origin="row-parallel columns", clauses="MATH-16", anomalies="shard-misplaced")
def every_rank_has_the_first_columns_of_down(original):
    """A of the down projection is cut on every rank as on the first."""

    def plans_of(layer, *, fully_sharded):
        plans = original(layer, fully_sharded=fully_sharded)
        first = range(len(layer.columns))
        return {**plans, "w2_weight": replace(plans["w2_weight"], columns=first)}

    return plans_of


@plant(LoRAExperts, "forward", origin="profiling runs", clauses="MATH-16", anomalies="raised")
def the_largest_expert_is_asked_for(original):
    """The largest of all pairs' experts is computed, of which there may be none."""

    def forward(self, hidden, weights, ids):
        assert ids.max() < self.base_layer.global_num_experts
        return original(self, hidden, weights, ids)

    return forward


@plant(expert_adapters, "plans_of", origin="fully sharded experts", clauses="MATH-16", anomalies="shard-misplaced")
def every_rank_has_the_first_rows_of_gate(original):
    """B of gate and up is cut on every rank as on the first."""

    def plans_of(layer, *, fully_sharded):
        plans = original(layer, fully_sharded=fully_sharded)
        slices = tuple(replace(one, rows=range(one.local_size)) for one in plans["w13_weight"].slices)
        return {**plans, "w13_weight": replace(plans["w13_weight"], slices=slices)}

    return plans_of


@plant(LoRADelta, "_collect", origin="fully sharded down", clauses="MATH-16", anomalies="gather-skipped")
def hidden_of_down_is_not_summed(original):
    """What a rank's columns of A yield is not summed before B is applied."""

    def collect(self, hidden):
        return hidden if self.slots.plan.family.value == "row" else original(self, hidden)

    return collect


@plant(LoRAExperts, "rank_shards", origin="S0c, vllm #35077", clauses="RANK-6", anomalies="rank-indivisible")
def experts_are_not_counted(original):
    """The warm-up rank does not know that experts cut it."""
    return lambda self: 1


@plant(LoRAExperts, "rank_shards", origin="expert parallelism", clauses="RANK-6", anomalies="rank-not-smallest")
def whole_experts_are_counted(original):
    """A mixture that expert parallelism holds whole is taken to cut the rank."""
    return lambda self: self.base_layer.group.size if self.base_layer.use_ep else original(self)


@plant(lora_compat, "dummy_experts", origin="warm-up", clauses="RANK-6", anomalies="raised adapter-leak")
def a_dummy_of_ones(original):
    """The dummy adapter is not zero."""

    def dummy(layer, rank):
        adapter = original(layer, rank)
        for one in adapter.experts:
            for part in (*one.gate_up, one.down):
                part.lora_a.fill_(1)
                part.lora_b.fill_(1)
        return adapter

    return dummy
