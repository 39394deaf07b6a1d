"""vLLM's models as hosts: loaded by its own loader, before anybody has wrapped anything."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from conformance.engines.ranks import RankGroup, site_of
from conformance.implementations.models import (
    AdaptersView,
    BaseModelError,
    ForwardRaised,
    HostedModel,
    ModelLibrary,
    ModelSettings,
    NoForward,
    Parts,
)
from conformance.implementations.vllm.groups import ranked, staged
from conformance.implementations.vllm.models import engine, forwards
from conformance.implementations.vllm.models.bare import bare_model
from conformance.implementations.vllm.models.readings import Reader, is_embedding, is_head, own_tensors
from conformance.implementations.vllm.models.rotary_tables import tables
from lora_compat.checkpoint_map import CheckpointMap, TensorInfo, shapes_in

_MAPS_KEPT = 32
EXPERT_PARALLEL, IN_TURN = "enable_expert_parallel", "expert_placement_strategy=round_robin"  # vLLM's arguments
_UTILS = "vllm.model_executor.model_loader.utils"


class VllmHost(HostedModel):
    """One rank's model, which is made inside `loading`."""

    def __init__(self, directory: Path, settings: ModelSettings, group: RankGroup) -> None:
        self.group, self._stage = group, settings.stage
        self.config = engine.engine_config(directory, settings, group.size)
        with forwards.doubled() if settings.dtype is torch.float64 else nullcontext():
            self.model = self.within(importlib.import_module("vllm.model_executor.model_loader").get_model)
        _require_ends(self.model, self.config.model_config)
        self._reader = Reader(self.model, self.config)
        self.forwards = self._reader.forwards

    def within(self, build: Callable[..., Any]) -> Any:
        """``build(vllm_config=...)`` with this model's configuration in place."""
        with importlib.import_module("vllm.config").set_current_vllm_config(self.config):
            return build(vllm_config=self.config)

    @contextmanager
    def ranked(self) -> Iterator[None]:
        with staged(self._stage), ranked(self.group):
            yield

    def names(self) -> tuple[str, ...]:
        return self._reader.names

    def towers(self) -> tuple[str, ...]:
        return self._reader.towers

    def read(self, view: AdaptersView | None, only: Container[str] | None = None) -> dict[str, Parts]:
        with self.ranked(), torch.no_grad(), tables.unchanged("reading"):
            return self._reader.read(view, self.group, only)

    def logits(self, view: AdaptersView | None, tokens: Tensor) -> Tensor:
        adapted = view is not None
        try:
            with self.ranked(), torch.no_grad(), forwards.doubled():
                (view or AdaptersView()).serve(len(tokens))
                return forwards.logits(self.model, self.config, tokens)
        except NoForward:
            raise
        except Exception as error:
            said = f"{type(error).__name__}: {str(error) or site_of(error)}"
            raise (ForwardRaised if adapted else NoForward)(said) from error


def _require_ends(model: nn.Module, model_config: Any) -> None:
    """Raises where a class ties embedding and head, or does not, whatever its configuration says.

    With one weight it loads both into it, with two nothing into the head, adapters or not.
    """
    named = dict(model.named_modules())
    found = {name: module.weight for name, module in named.items() if is_embedding(module) or is_head(module)}
    ends = {name: weight for name, weight in found.items() if not weight.is_meta}  # as a head is that is replaced
    configs = (model_config.hf_config, model_config.hf_text_config)
    if any(getattr(config, "tie_word_embeddings", True) for config in configs):
        empty = [name for name, weight in ends.items() if weight.is_floating_point() and weight.isnan().all()]
        if empty:
            raise ValueError(f"{empty[0]} gets no numbers from the checkpoint")
        return
    for weight in (weight for name, weight in ends.items() if is_embedding(named[name])):
        shared = {name.rpartition(".")[2] for name, other in ends.items() if other is weight}
        if len(shared) > 1:
            raise ValueError(f"{' and '.join(sorted(shared))} have one weight, where the configuration has two")


class VllmModelLibrary(ModelLibrary):
    """vLLM's models for an implementation with LoRA layers of its own."""

    expert_parallel, in_turn = EXPERT_PARALLEL, IN_TURN

    def prepare(self) -> None:
        engine.prepare()

    def host(self, directory: Path, settings: ModelSettings, group: RankGroup) -> HostedModel:
        with tables.unchanged("loading"):
            try:
                with loading(group, settings.stage):
                    return VllmHost(directory, settings, group)
            except Exception as error:
                raise BaseModelError(f"{type(error).__name__}: {error}") from error

    def maps(self, directory: Path, settings: ModelSettings, size: int) -> Sequence[CheckpointMap]:
        return learned(directory, settings.dtype, size, settings.options)


@contextmanager
def loading(group: RankGroup, stage: tuple[int, int]) -> Iterator[None]:
    """Inside, vLLM's loader runs for this rank, of one stage out of so many."""
    engine.groups()
    with staged(stage), ranked(group), engine.quick_loading(), engine.without_amx(), engine.defined_memory():
        yield


@lru_cache(maxsize=_MAPS_KEPT)
def learned(
    directory: Path, dtype: torch.dtype, size: int, options: tuple[str, ...] = ()
) -> tuple[CheckpointMap, ...]:
    """The maps of all ranks, what is made of the weights after loading included.

    Each is learned on a model of its own, which needs no other rank: loaders cut what they are handed by themselves.
    """
    shapes = shapes_in(directory)
    found = []
    for rank in range(size):
        alone = RankGroup(rank, size, lambda rank, issued, tensor: [tensor] * size)
        with bare_model(directory, dtype, alone, lora=True, options=options) as (model, config), _without_tying():
            load = _Loading(model, config)
            load((name, torch.zeros(one.shape, dtype=one.dtype)) for name, one in shapes.items())
            found.append(_learned(model, shapes, load))
    return tuple(found)


class _Loading:
    """Loads a model and finishes it, as vLLM does."""

    def __init__(self, model: Any, config: Any) -> None:
        self._model, self._config = model, config
        self._finish = importlib.import_module(_UTILS).process_weights_after_loading

    def __call__(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        self._model.load_weights(weights)
        self._finish(self._model, self._config.model_config, torch.device("cpu"))


def _learned(model: nn.Module, shapes: Mapping[str, TensorInfo], load: Callable[..., object]) -> CheckpointMap:
    return CheckpointMap.learn(shapes, load, lambda: _tensors(model))


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Everything that holds numbers, under all its names: copies made of a weight while loading too."""
    return {
        f"{prefix}.{name}" if prefix else name: tensor
        for prefix, module in model.named_modules(remove_duplicate=False)
        for name, tensor in own_tensors(module)
    }


def _without_tying() -> Any:
    """Without the look whether head and embedding hold the same numbers, which those of a map may."""
    utils = importlib.import_module(_UTILS)
    return patch.object(utils, "maybe_retie_word_embeddings", lambda *given: None, create=True)
