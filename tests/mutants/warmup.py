"""Bugs of the dummy warm-up rank (RANK)."""

from __future__ import annotations

import math

import torch

import lora_compat
from lora_compat.adapters import LayerAdapter, SubAdapter
from lora_compat.errors import WarmupRankError
from tests.mutants.planting import plant


def rounded_up(default, multiple):
    return -(-default // multiple) * multiple


@plant(lora_compat, "warmup_rank", origin="S0c, vllm #35077", clauses="RANK-1", anomalies="rank-indivisible")
def the_default_whatever_is_cut(original):
    """The default rank is used though 32 ranks cut it."""
    return lambda *, max_lora_rank, shards=(), default=8: min(default, max_lora_rank)


@plant(lora_compat, "warmup_rank", origin="vllm #35077", clauses="RANK-1", anomalies="rank-indivisible")
def max_for_the_least_common_multiple(original):
    """The largest number of parts stands for all of them."""

    def warmup_rank(*, max_lora_rank, shards=(), default=8):
        return original(max_lora_rank=max_lora_rank, shards=(max(shards),), default=default)

    return warmup_rank


@plant(lora_compat, "warmup_rank", origin="one module looked at", clauses="RANK-1", anomalies="rank-indivisible")
def the_last_module_decides(original):
    """Only the last module's parts are looked at."""

    def warmup_rank(*, max_lora_rank, shards=(), default=8):
        return original(max_lora_rank=max_lora_rank, shards=shards[-1:], default=default)

    return warmup_rank


@plant(lora_compat, "warmup_rank", origin="lcm written as a product", clauses="RANK-2", anomalies="rank-not-smallest")
def product_for_the_least_common_multiple(original):
    """The parts are multiplied, where 4 and 6 need just 12."""

    def warmup_rank(*, max_lora_rank, shards=(), default=8):
        return original(max_lora_rank=max_lora_rank, shards=(math.prod(shards),), default=default)

    return warmup_rank


@plant(lora_compat, "warmup_rank", origin="off by one", clauses="RANK-2", anomalies="rank-not-smallest")
def one_multiple_too_many(original):
    """A default that divides evenly is lifted all the same."""

    def warmup_rank(*, max_lora_rank, shards=(), default=8):
        multiple = math.lcm(*shards)
        right = original(max_lora_rank=max_lora_rank, shards=shards, default=default)
        return right + multiple if multiple > 1 and default % multiple == 0 and right == default else right

    return warmup_rank


@plant(
    lora_compat,
    "warmup_rank",
    origin="kernels like powers of two",
    clauses="RANK-1",
    anomalies="rank-indivisible rank-not-smallest",
)
def the_next_power_of_two(original):
    """The rank is rounded to a power of two, which three parts do not divide."""

    def warmup_rank(**options):
        return 1 << (original(**options) - 1).bit_length()

    return warmup_rank


@plant(lora_compat, "warmup_rank", origin="warming up at the largest", clauses="RANK-3", anomalies="rank-not-default")
def the_maximum_where_nothing_is_cut(original):
    """Where nothing cuts the rank the largest one is taken."""

    def warmup_rank(*, max_lora_rank, shards=(), default=8):
        if math.lcm(*shards) == 1:
            return max_lora_rank
        return original(max_lora_rank=max_lora_rank, shards=shards, default=default)

    return warmup_rank


@plant(lora_compat, "warmup_rank", origin="RANK-3 needs two", clauses="RANK-3", anomalies="rank-not-default")
def one_rank_per_module(original):
    """The default grows with the number of modules, cut or not."""

    def warmup_rank(*, max_lora_rank, shards=(), default=8):
        right = original(max_lora_rank=max_lora_rank, shards=shards, default=default)
        return right + len(shards) - 1 if set(shards) == {1} else right

    return warmup_rank


@plant(lora_compat, "warmup_rank", origin="vllm #35077", clauses="RANK-4", anomalies="rank-indivisible")
def beyond_the_maximum(original):
    """The smallest multiple is taken though it exceeds the largest rank allowed."""
    return lambda *, max_lora_rank, shards=(), default=8: rounded_up(default, math.lcm(*shards))


@plant(lora_compat, "warmup_rank", origin="rounding down", clauses="RANK-4", anomalies="rank-indivisible")
def rank_zero(original):
    """Where nothing fits the rank is 0."""

    def warmup_rank(**options):
        try:
            return original(**options)
        except WarmupRankError:
            return 0

    return warmup_rank


@plant(lora_compat, "warmup_rank", origin="never below the default", clauses="RANK-4", anomalies="rank-indivisible")
def the_default_where_less_would_fit(original):
    """Where just a multiple below the default fits, the default is taken all the same."""

    def warmup_rank(*, max_lora_rank, shards=(), default=8):
        right = original(max_lora_rank=max_lora_rank, shards=shards, default=default)
        return default if right < default <= max_lora_rank and math.lcm(*shards) > 1 else right

    return warmup_rank


@plant(WarmupRankError, "__init__", origin="error messages", clauses="RANK-4", anomalies="unclear-refusal")
def refusal_without_numbers(original):
    """The error names none of the numbers."""
    return lambda self, default, multiple, maximum: Exception.__init__(self, "no warm-up rank fits")


@plant(lora_compat, "dummy_adapter", origin="dummies of ones", clauses="RANK-5", anomalies="adapter-leak")
def a_dummy_that_adds(original):
    """The dummy's A and B are ones."""

    def dummy_adapter(layer, rank):
        dummy = original(layer, rank)
        for part in dummy.parts:
            part.lora_a.fill_(1), part.lora_b.fill_(1)
        return dummy

    return dummy_adapter


@plant(lora_compat, "dummy_adapter", origin="T11, vllm #36372", clauses="RANK-5", anomalies="raised")
def a_dummy_of_local_rows(original):
    """The dummy's B has the rows of one rank, not of the checkpoint."""

    def dummy_adapter(layer, rank):
        parts = original(layer, rank).parts
        sizes = layer.plan.slice_sizes
        return LayerAdapter(
            tuple(SubAdapter(part.lora_a, torch.zeros(size, rank)) for part, size in zip(parts, sizes, strict=True))
        )

    return dummy_adapter
