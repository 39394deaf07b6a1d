"""`LoRAEmbedding`: the LoRA layer for embeddings, where A is looked up instead of multiplied with."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lora_compat.adapters import LayerAdapter, LoRAConfig
from lora_compat.delta import NO_TOKENS
from lora_compat.errors import AdapterShapeError, SlotError, TokenCountError, UnsupportedLayerError
from lora_compat.kernels import TokenBatch, accumulation_dtype, expand
from lora_compat.vocabulary import ParallelLMHead, VocabParallelEmbedding

_WRAPPER = "_lora_embedding"


class LoRAEmbedding(nn.Module):
    """An embedding with adapters: the base layer's own forward, and ``s·B·A[:, id]`` added where that looks up.

    A is cut like the base weight, by the layer's own weight loader, and what is added to an id that the rank does
    not hold is masked with the base row; so one sum over the ranks serves both, whatever the class does afterwards.
    """

    base_layer: nn.Module

    def __init__(self, base_layer: nn.Module, config: LoRAConfig, *, name: str = "", lanes: int = 0) -> None:
        """Wraps ``base_layer``; `wrap_embedding` is the checked way in.

        Args:
            lanes: how many adapters' ranks fit into a slot at once, where adapters come as this rank's part, with a
                column of A for each local row; 0 where they come whole.
        """
        super().__init__()
        layer: Any = base_layer
        self.base_layer = base_layer
        self.name = name or type(base_layer).__qualname__
        self.local = lanes > 0
        self.max_rank = config.max_lora_rank * max(1, lanes)
        local = layer.weight.shape[0]
        self.vocabulary = (local, local) if self.local else (layer.org_vocab_size, layer.num_embeddings)
        self.batch = NO_TOKENS
        weight, slots, rank = layer.weight, config.max_loras, self.max_rank
        dtype = config.lora_dtype or getattr(layer, "params_dtype", weight.dtype)
        self.lora_a = torch.zeros(slots, weight.shape[0], rank, dtype=dtype, device=weight.device)
        self.lora_b = torch.zeros(slots, weight.shape[1], rank, dtype=dtype, device=weight.device)
        self.scaling = torch.zeros(slots, dtype=accumulation_dtype(dtype), device=weight.device)
        base_layer.__dict__[_WRAPPER] = weakref.ref(self)
        intercept_lookups(base_layer)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The base layer's forward, with the batch's adapters in its rows."""
        return self.base_layer(*args, **kwargs)

    def set_lora(self, slot: int, adapter: LayerAdapter) -> None:
        """Loads an adapter with A ``[rank, ids]`` and B ``[embedding_dim, rank]`` into ``slot``.

        A has a column for every id, or for the original ones alone; added ids then have no contribution.

        Raises:
            SlotError, AdapterShapeError: the slot is untouched.
        """
        self._require(slot)
        self.check(adapter)
        part: Any = adapter.parts[0]
        base: Any = self.base_layer
        local_a = part.lora_a.t() if self.local else base.local_rows(part.lora_a.t())
        self.reset_lora(slot)
        self.lora_a[slot, :, : part.rank] = local_a
        self.lora_b[slot, :, : part.rank] = part.lora_b
        self.scaling[slot] = adapter.scaling

    @property
    def max_loras(self) -> int:
        """How many slots there are."""
        return len(self.scaling)

    @property
    def rank_shards(self) -> int:
        """Into how many parts this layer cuts the LoRA rank: an embedding is cut by ids alone."""
        return 1

    @property
    def lora_device(self) -> torch.device:
        """Where the slots are."""
        return self.lora_a.device

    def check(self, adapter: LayerAdapter) -> None:
        """Whether ``adapter`` would load into any slot.

        Raises:
            AdapterShapeError: it has several parts, or a tensor does not fit.
        """
        part = adapter.parts[0] if len(adapter.parts) == 1 else None
        if part is None:
            raise AdapterShapeError(self.name, "LoRA", expected="one part", received=f"{len(adapter.parts)} parts")
        self._check(part.lora_a, part.lora_b)

    def saved(self, slot: int) -> tuple[Tensor, ...]:
        """A copy of what ``slot`` holds, for `restore`."""
        self._require(slot)
        return tuple(buffer[slot].clone() for buffer in (self.lora_a, self.lora_b, self.scaling))

    def restore(self, slot: int, saved: tuple[Tensor, ...]) -> None:
        """Puts back what `saved` copied."""
        for buffer, content in zip((self.lora_a, self.lora_b, self.scaling), saved, strict=True):
            buffer[slot] = content

    def reset_lora(self, slot: int) -> None:
        """Empties ``slot``."""
        self._require(slot)
        for buffer in (self.lora_a, self.lora_b, self.scaling):
            buffer[slot] = 0

    def set_batch(self, batch: TokenBatch | None) -> None:
        """Selects which slot serves each id of the next forwards; None: no adapters."""
        self.batch = NO_TOKENS if batch is None else batch

    def add_to(self, output: Tensor, rows: Tensor) -> Tensor:
        """``output [..., dim] + s·B·A[row]`` for local ``rows [...]``.

        Raises:
            TokenCountError: there is not one slot per row.
        """
        if rows.numel() != len(self.batch):
            raise TokenCountError(self.name, rows.numel(), len(self.batch))
        flat = rows.reshape(-1)
        hidden = torch.zeros(len(flat), 1, self.max_rank, dtype=self.scaling.dtype, device=output.device)
        for slot, tokens in self.batch.groups:
            hidden[tokens, 0] = self.lora_a[slot][flat[tokens]].to(hidden.dtype)
        output = output.contiguous()
        width = output.shape[-1]
        expand(hidden, self.lora_b, self.scaling, self.batch, output.view(-1, width), slice_sizes=(width,), offset=0)
        return output

    def _require(self, slot: int) -> None:
        if slot not in range(self.max_loras):
            raise SlotError(slot, self.max_loras)

    def _check(self, lora_a: Tensor, lora_b: Tensor) -> None:
        rank, ids = lora_a.shape
        if rank > self.max_rank:
            expected: object = f"a rank of at most max_lora_rank={self.max_rank}"
            raise AdapterShapeError(self.name, "LoRA A", expected=expected, received=rank)
        if ids not in self.vocabulary:
            expected = f"a column for each of {self.vocabulary[-1]} ids, or of the {self.vocabulary[0]} original ones"
            raise AdapterShapeError(self.name, "LoRA A", expected=expected, received=tuple(lora_a.shape))
        shape = (self.lora_b.shape[1], rank)
        if tuple(lora_b.shape) != shape:
            raise AdapterShapeError(self.name, "LoRA B", expected=shape, received=tuple(lora_b.shape))

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            base_layer = self.__dict__.get("_modules", {}).get("base_layer")
            if base_layer is None:
                raise
            return getattr(base_layer, name)


class InterceptedEmbedding:
    """Stands in for a quant method's ``embedding`` and adds the contribution of the layer it is called with."""

    def __init__(self, embedding: Callable[..., Tensor]) -> None:
        self.embedding = embedding

    def __call__(self, layer: nn.Module, rows: Tensor) -> Tensor:
        with torch._C.DisableTorchFunctionSubclass():  # a weight tied to an LM head with adapters has none here
            output = self.embedding(layer, rows)
        reference = layer.__dict__.get(_WRAPPER)
        wrapper = reference() if reference else None
        return wrapper.add_to(output, rows) if wrapper is not None and wrapper.batch.active else output


def intercept_lookups(layer: nn.Module) -> None:
    """Makes sure that the layer's lookups are intercepted: its own adapters, or those of a head that it is tied to."""
    method: Any = getattr(layer, "quant_method", None)
    if method is None:
        if not isinstance(layer.forward, InterceptedLookup):
            layer.forward = InterceptedLookup(layer)
        return
    if not isinstance(method.embedding, InterceptedEmbedding):
        method.embedding = InterceptedEmbedding(method.embedding)
    if hasattr(layer, "use_fused_embedding"):
        layer.__dict__["use_fused_embedding"] = False  # vLLM's on CUDA, which does not ask the quant method


class InterceptedLookup:
    """Stands in for the forward of a plain `torch.nn.Embedding`."""

    def __init__(self, layer: nn.Module) -> None:
        forward = layer.forward
        self._lookup = InterceptedEmbedding(lambda layer, rows: forward(rows))
        self._layer = weakref.ref(layer)

    def __call__(self, input: Tensor) -> Tensor:
        layer = self._layer()
        assert layer is not None
        return self._lookup(layer, input)


def wrap_embedding(layer: nn.Module, config: LoRAConfig, *, name: str = "") -> LoRAEmbedding:
    """The LoRA layer for an embedding; wrapping what is wrapped already gives the wrapper it has (WRAP-5).

    Raises:
        UnsupportedLayerError: ``layer`` is no `VocabParallelEmbedding`, or is an LM head (see `wrap_layer`).
    """
    if isinstance(layer, LoRAEmbedding):
        return layer
    if not isinstance(layer, VocabParallelEmbedding) or isinstance(layer, ParallelLMHead):
        raise UnsupportedLayerError(layer, "it is no VocabParallelEmbedding", name=name)
    reference = layer.__dict__.get(_WRAPPER)
    wrapper = reference() if reference else None
    return wrapper if isinstance(wrapper, LoRAEmbedding) else LoRAEmbedding(layer, config, name=name)
