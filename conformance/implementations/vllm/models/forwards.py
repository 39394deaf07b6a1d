"""The whole forward of a vLLM model on a CPU: one sequence, from its tokens to their logits, in double precision."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from conformance.implementations.doubles import in_double
from conformance.implementations.models import NoForward

_CLASS = "vllm.model_executor.layers.attention.attention"


@contextmanager
def doubled() -> Iterator[None]:
    """Inside, vLLM's models are built and run in float64; its own operators by their functions of torch."""
    with ExitStack() as stack:
        stack.enter_context(in_double())
        try:
            operators: Any = importlib.import_module("vllm.ir")
        except ModuleNotFoundError:  # of an older release, whose layers call torch themselves
            pass
        else:
            stack.enter_context(operators.enable_torch_wrap(False))
        yield


def logits(model: Any, config: Any, tokens: Tensor) -> Tensor:
    """The logits of one sequence, ``[tokens, vocabulary]``, float64; inside of `doubled`.

    Raises:
        NoForward: nothing stands in for a layer that the model has, or it gives no logits.
    """
    if not hasattr(model, "compute_logits"):
        raise NoForward("the class gives no logits")
    _require_known(config)
    positions = torch.arange(len(tokens))
    if config.model_config.uses_mrope:
        positions = positions.expand(3, -1)  # time, height and width, which text has alike
    context = importlib.import_module("vllm.forward_context").set_forward_context
    attention = importlib.import_module(_CLASS).Attention
    with (
        importlib.import_module("vllm.config").set_current_vllm_config(config),
        context(None, config, num_tokens=len(tokens)),
        patch.object(attention, "forward", attend),
    ):
        found: Tensor = model.compute_logits(model(tokens, positions))
    return found.clone()


def _require_known(config: Any) -> None:
    """Raises where a layer that keeps a cache would find no sequence, and return what is no number of its own."""
    base = importlib.import_module("vllm.model_executor.layers.attention_layer_base").AttentionLayerBase
    for layer in config.compilation_config.static_forward_context.values():
        if isinstance(layer, base):
            reason = _unknown(layer)
            if reason:
                raise NoForward(f"nothing stands in for {reason}")


def _unknown(layer: Any) -> str:
    """What `attend` does not cover of a layer; empty where it covers all of it."""
    if type(layer).__qualname__ != "Attention" or type(layer).__module__ != _CLASS:
        return type(layer).__name__
    if getattr(layer.impl, "alibi_slopes", None) is not None:
        return "attention with slopes by distance"
    if layer.kv_sharing_target_layer_name is not None:
        return "attention to the keys of another layer"
    return "" if layer.attn_type == "decoder" else f"{layer.attn_type} attention"


def attend(
    layer: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output_shape: torch.Size | None = None,
    output_dtype: torch.dtype | None = None,
) -> Tensor:
    """Causal attention of one sequence, in place of ``Attention.forward``; ``[tokens, heads × head size]``.

    Every KV head serves as many heads as there are to one. A window counts the token itself; a soft cap is by tanh; a
    sink is a score of each head that takes its share and adds nothing.
    """
    count, per_head = len(query), layer.num_heads // layer.num_kv_heads
    query = query.reshape(count, layer.num_heads, -1)
    key, value = (
        one.reshape(count, layer.num_kv_heads, -1).repeat_interleave(per_head, dim=1) for one in (key, value)
    )
    scores = torch.einsum("qhd,khd->hqk", query, key) * layer.impl.scale
    cap = layer.impl.logits_soft_cap
    scores = cap * torch.tanh(scores / cap) if cap else scores
    distance = torch.arange(count)[:, None] - torch.arange(count)
    seen = (distance >= 0) & (distance < (layer.sliding_window or count))
    scores = scores.masked_fill(~seen, float("-inf"))
    sinks = getattr(layer.impl, "sinks", None)
    if sinks is not None:
        scores = torch.cat((scores, sinks.reshape(-1, 1, 1).expand(-1, count, 1)), dim=-1)
    shares = scores.softmax(dim=-1)[..., :count]
    return torch.einsum("hqk,khd->qhd", shares, value).reshape(count, -1)
