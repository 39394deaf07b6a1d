"""Bugs of embeddings and LM heads (MATH-14, MATH-15)."""

from __future__ import annotations

import torch
from torch.nn import functional

import lora_compat
from lora_compat import vocabulary
from lora_compat.delta import NO_TOKENS
from lora_compat.embeddings import InterceptedEmbedding, LoRAEmbedding
from lora_compat.kernels import TokenBatch
from lora_compat.vocabulary import LogitsProcessor, ParallelLMHead, VocabParallelEmbedding
from lora_compat.vocabulary_shards import VocabularyShard
from tests.mutants.planting import plant


@plant(VocabularyShard, "find", origin="K5, vLLM ≤ 0.7.3", clauses="MATH-14", anomalies="input-written")
def ids_are_masked_in_place(original):
    """Ids that another rank holds are set to zero in the caller's tensor."""

    def find(self, ids):
        rows, held = original(self, ids)
        ids[~held] = 0
        return rows, held

    return find


@plant(VocabularyShard, "find", origin="added vocabulary", clauses="MATH-14", anomalies="padding-overlooked")
def added_ids_follow_without_padding(original):
    """Added ids are looked up right behind the original ones, where the padding is."""

    def find(self, ids):
        rows, held = original(self, ids)
        padding = self.original_rows - len(self.original)
        return torch.where(held & (rows >= self.original_rows), rows - padding, rows), held

    return find


@plant(VocabularyShard, "find", origin="out-of-vocabulary ids", clauses="MATH-14", anomalies="mask-skipped")
def unknown_ids_are_the_last_one(original):
    """An id beyond the vocabulary is taken for the last one."""
    return lambda self, ids: original(self, ids.clamp(max=max(self.original.stop, self.added.stop) - 1))


# What a rank adds is neither masked, nor summed, nor inside the class's own forward: each shows on some cases.
@plant(
    LoRAEmbedding,
    "forward",
    origin="delta beside the base",
    clauses="MATH-14",
    anomalies="mask-skipped gather-skipped delta-outside-forward",
)
def the_contribution_is_added_on_every_rank(original):
    """What A has for row 0 is added for ids that another rank holds."""

    def forward(self, ids):
        batch, self.batch = self.batch, NO_TOKENS
        output = self.base_layer(ids)
        self.batch = batch
        rows, _ = self.base_layer.shard.find(ids)
        return self.add_to(output, rows) if batch.active else output

    return forward


@plant(LoRAEmbedding, "forward", origin="scaled embeddings", clauses="MATH-14", anomalies="delta-outside-forward")
def the_contribution_is_not_scaled(original):
    """The contribution is added to what the class returns, behind its own multiplication."""

    def forward(self, ids):
        batch, self.batch = self.batch, NO_TOKENS
        output = self.base_layer(ids)
        self.batch = batch
        rows, held = self.base_layer.shard.find(ids)
        delta = self.add_to(torch.zeros_like(output), rows) if batch.active else torch.zeros_like(output)
        delta = delta.masked_fill(~held.unsqueeze(-1), 0)
        return output + self.base_layer.tp_group.all_reduce(delta)

    return forward


@plant(
    VocabParallelEmbedding,
    "local_rows",
    origin="A cut like a plain column layer",
    clauses="MATH-14 MATH-15",
    anomalies="padding-overlooked",
)
def rows_are_cut_without_padding(original):
    """An adapter's vocabulary is cut into equal parts of what there is, not of what is padded."""

    def local_rows(self, whole):
        padded = functional.pad(whole, (0, 0, 0, self.shard.rows * self.tp_size - whole.shape[0]))
        part = -(-whole.shape[0] // self.tp_size)
        mine = padded[self.tp_rank * part : (self.tp_rank + 1) * part]
        return functional.pad(mine, (0, 0, 0, self.shard.rows - mine.shape[0]))

    return local_rows


@plant(
    VocabParallelEmbedding,
    "local_rows",
    origin="adapters without the added ids",
    clauses="MATH-14",
    anomalies="delta-misplaced",
)
def missing_ids_get_the_first_ones_rows(original):
    """Added ids that an adapter does not know wrap around to its first ones."""

    def local_rows(self, whole):
        missing = self.num_embeddings - whole.shape[0]
        return original(self, torch.cat([whole, whole.repeat(missing, 1)[:missing]]) if missing else whole)

    return local_rows


@plant(LoRAEmbedding, "add_to", origin="finding 45, vllm 0.33.0", clauses="MATH-14", anomalies="layout-dependent")
def a_row_follows_its_first_id(original):
    """Of ids in rows only the first is asked for its adapter, whose A then serves the whole row."""

    def add_to(self, output, rows):
        own = self.lora_a
        if rows.dim() > 1:
            self.lora_a = own[[self.batch.slots[0]] * len(own)]
        try:
            return original(self, output, rows)
        finally:
            self.lora_a = own

    return add_to


@plant(LoRAEmbedding, "set_lora", origin="stale ranks of a larger adapter", clauses="MATH-14", anomalies="stale-slot")
def a_smaller_adapter_leaves_the_rest(original):
    """What the former adapter had beyond the new one's rank stays."""

    def set_lora(self, slot, adapter):
        before = self.lora_a[slot].clone(), self.lora_b[slot].clone()
        original(self, slot, adapter)
        for buffer, kept in zip((self.lora_a, self.lora_b), before, strict=True):
            buffer[slot, :, adapter.parts[0].rank :] = kept[:, adapter.parts[0].rank :]

    return set_lora


@plant(LoRAEmbedding, "reset_lora", origin="a reset of the scaling", clauses="MATH-14", anomalies="stale-slot")
def a_reset_leaves_the_scaling_and_b(original):
    """A slot that is reset loses its A for the first id alone."""

    def reset_lora(self, slot):
        self._require(slot)
        self.lora_a[slot, :1] = 0

    return reset_lora


@plant(lora_compat, "wrap_embedding", origin="D10, vllm #42757", clauses="MATH-14", anomalies="delta-dropped")
def wrapped_whenever_asked(original):
    """An embedding that has a wrapper gets another one, with slots of its own."""
    return lambda layer, config, name="": LoRAEmbedding(layer, config, name=name)


@plant(InterceptedEmbedding, "__call__", origin="stacked slots", clauses="MATH-14", anomalies="adapter-leak")
def tokens_without_get_slot_zero(original):
    """A token without an adapter is served the first slot's."""

    def call(self, layer, rows):
        wrapper = layer.__dict__["_lora_embedding"]() if "_lora_embedding" in layer.__dict__ else None
        if wrapper is not None and wrapper.batch.active:
            wrapper.batch = TokenBatch.of([max(slot, 0) for slot in wrapper.batch.slots])
        return original(self, layer, rows)

    return call


@plant(LoRAEmbedding, "forward", origin="profiling runs", clauses="MATH-14", anomalies="raised")
def the_first_id_is_asked_for(original):
    """A batch of no ids is indexed at its first."""

    def forward(self, ids):
        return original(self, ids) if ids.flatten()[0] is not None else ids

    return forward


@plant(LoRAEmbedding, "forward", origin="profiling runs", clauses="MATH-14", anomalies="base-forward-bypassed")
def no_ids_are_their_own_embeddings(original):
    """A batch of no ids is handed back as it came."""
    return lambda self, ids: original(self, ids) if ids.numel() else ids


@plant(LogitsProcessor, "forward", origin="profiling runs", clauses="MATH-15", anomalies="base-forward-bypassed")
def no_tokens_have_no_logits(original):
    """A batch of no tokens is handed back as it came."""
    return lambda self, head, hidden: original(self, head, hidden) if hidden.numel() else hidden


@plant(vocabulary, "_places", origin="gathered logits", clauses="MATH-15", anomalies="padding-overlooked")
def logits_in_the_order_of_the_ranks(original):
    """The ranks' logits are cut to the vocabulary where they lie, padding and all."""
    return lambda head: list(range(head.num_embeddings))


@plant(LogitsProcessor, "forward", origin="logit scale", clauses="MATH-15", anomalies="scale-dropped")
def the_scale_is_dropped(original):
    """Logits are not scaled."""

    def forward(self, lm_head, hidden_states):
        scale, self.scale = self.scale, 1.0
        try:
            return original(self, lm_head, hidden_states)
        finally:
            self.scale = scale

    return forward


@plant(ParallelLMHead, "shard_plan", origin="fully sharded LM heads", clauses="MATH-15", anomalies="shard-misplaced")
def every_rank_has_the_first_ranks_rows(original):
    """B is cut on every rank as on the first."""

    def shard_plan(self, *, fully_sharded):
        plan = original(self, fully_sharded=fully_sharded)
        object.__setattr__(plan, "loader", lambda b, index: self.shard_of(0).take(b))
        return plan

    return shard_plan
