"""Bugs planted in SGLang's LoRA layers and memory pool, as run-time patches; nothing of its source is here."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import torch

from tests.mutants.planting import planted_in
from tests.mutants.vllm_planted import plant_in

LAYERS = "sglang.srt.lora.layers:"
POOL = "sglang.srt.lora.mem_pool:LoRAMemoryPool"
BACKEND = "sglang.srt.lora.backend.torch_backend:TorchNativeLoRABackend"


@plant_in(
    LAYERS + "RowParallelLinearWithLoRA", "slice_lora_a_weights",
    origin="P3, lorax #47", clauses="MATH-1", anomalies="shard-misplaced",
)  # fmt: skip
def row_parallel_takes_the_first_columns(original):
    """Every row-parallel rank takes the first rank's columns of A."""
    return lambda self, A: A[:, : self.base_layer.input_size_per_partition].contiguous()


@plant_in(
    LAYERS + "ColumnParallelLinearWithLoRA", "slice_lora_b_weights",
    origin="one rank's rows for all", clauses="MATH-1", anomalies="shard-misplaced",
)  # fmt: skip
def column_parallel_takes_the_first_rows(original):
    """Every column-parallel rank takes the first rank's rows of B."""
    return lambda self, B: B[: self.base_layer.output_partition_sizes[0]]


@plant_in(
    LAYERS + "QKVParallelLinearWithLoRA", "slice_lora_b_weights",
    origin="order of the packed list", clauses="MATH-1 MATH-8", anomalies="slices-swapped",
)  # fmt: skip
def keys_and_values_change_places(original):
    """The rows of B for keys and those for values are swapped."""

    def slice_lora_b_weights(self, B):
        query, size = self.base_layer.q_proj_shard_size, self.base_layer.kv_proj_shard_size
        q, k, v = original(self, B).split([query, size, size])
        return torch.cat([q, v, k])

    return slice_lora_b_weights


@plant_in(POOL, "load_lora_weight_to_buffer", origin="slot re-use", clauses="MATH-5", anomalies="stale-slot")
def the_former_adapter_stays(original):
    """A slot that holds an adapter already is not written over."""

    def load_lora_weight_to_buffer(self, uid, buffer_id, *arguments):
        if self.buffer_id_to_uid[buffer_id] != uid:
            original(self, uid, buffer_id, *arguments)

    return load_lora_weight_to_buffer


@plant_in(BACKEND, "prepare_lora_batch", origin="slot indices", clauses="MATH-2", anomalies="wrong-slot")
def the_first_tokens_adapter_for_all(original):
    """All tokens of a batch get the first one's adapter."""

    def prepare_lora_batch(self, forward_batch, weight_indices, *arguments, **options):
        original(self, forward_batch, [weight_indices[0]] * len(weight_indices), *arguments, **options)

    return prepare_lora_batch


@plant_in(BACKEND, "prepare_lora_batch", origin="scaling", clauses="MATH-12", anomalies="scale-dropped")
def adapters_are_not_scaled(original):
    """Whatever an adapter's scaling, it is one."""

    def prepare_lora_batch(self, forward_batch, weight_indices, lora_ranks, scalings, *arguments, **options):
        ones = [1.0] * len(scalings)
        original(self, forward_batch, weight_indices, lora_ranks, ones, *arguments, **options)

    return prepare_lora_batch


@plant_in(LAYERS, "ReplicatedLinear", origin="vllm #36372", clauses="WRAP-3", anomalies="order-dependent")
def replicated_claims_every_layer(original):
    """The LoRA layer class of replicated layers would take any linear layer."""
    return original.__base__


@plant_in(LAYERS, "unwrap_lora_layer", origin="another layer's", clauses="UNWRAP-2", anomalies="hidden-attribute")
def the_unwrapped_layer_has_its_rows_in_reverse(original):
    """What is unwrapped has another weight than the base layer."""

    def unwrap_lora_layer(module):
        plain = original(module)
        return SimpleNamespace(weight=plain.weight.flip(0), quant_method=plain.quant_method)

    return unwrap_lora_layer


SGLANG_MUTANTS = planted_in(sys.modules[__name__])
