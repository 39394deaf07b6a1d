"""Planted bugs of whole models: target modules, adapters from files, and what happens between calls."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from lora_compat import model_wrapping, served_model
from lora_compat.embeddings import LoRAEmbedding
from lora_compat.expert_adapters import LoRAExperts
from lora_compat.lru import Places
from lora_compat.manager import LoRAManager
from lora_compat.model_slots import ModelSlots
from lora_compat.model_tree import Site, sites
from lora_compat.model_wrapping import WrappedModel
from lora_compat.peft_config import PeftConfig
from lora_compat.slots import SlotBuffers
from lora_compat.targets import PackedModules, TargetModules
from lora_compat.token_maps import TokenMaps
from lora_compat.wrapper import LoRALinear
from tests.mutants.planting import Mutant, plant, plant_together


@plant(SlotBuffers, "load", origin="T10, vllm #20873", clauses="LIFE-1 LIFE-2", anomalies="refused-wrongly")
def slices_written_back(load: Any) -> Any:
    """Loading writes this rank's slices back into the cached adapter, which is cut again when it comes back."""

    def loading(self: SlotBuffers, slot: int, adapter: Any) -> None:
        load(self, slot, adapter)
        if self.plan.family.shards_output and len(adapter.parts) == len(self.plan.slices):
            for index, part in enumerate(adapter.parts):
                if part is not None:
                    object.__setattr__(part, "lora_b", self.plan.shard_b(part.lora_b, index))

    return loading


@plant(TokenMaps, "select", origin="M1, vllm #47724", clauses="LIFE-1", anomalies="stale-slot delta-dropped")
def same_map_same_slots(select: Any) -> Any:
    """An unchanged token map is not looked up again, though its adapters have moved to other slots."""

    def selecting(self: TokenMaps, holders: Any) -> None:
        if self.__dict__.get("_seen") != self.ids:
            self.__dict__["_seen"] = dict(self.ids)
            select(self, holders)

    return selecting


@plant_together(origin="M3", clauses="LIFE-3", anomalies="state-lost")
@contextmanager
def failed_activation_stays_active() -> Iterator[None]:
    """An activation that fails half-way leaves the adapter active, with half of its weights."""
    activate = LoRAManager.activate

    def activating(self: LoRAManager, adapter_id: int) -> bool:
        try:
            return activate(self, adapter_id)
        except Exception:
            if adapter_id in self._registered and None in self._slots.holders:
                self._slots.holders[self._slots.holders.index(None)] = adapter_id
                self._active.use(adapter_id)
            raise

    with patch.object(LoRAManager, "activate", activating), patch.object(ModelSlots, "load", _load_for_good):
        yield


def _load_for_good(self: ModelSlots, slot: int, adapter: Any) -> None:
    for name, layer in self.layers.items():
        layer.set_lora(slot, adapter[name]) if name in adapter else layer.reset_lora(slot)


@plant(
    ModelSlots,
    "load",
    origin="M3, its other half",
    clauses="LIFE-3",
    anomalies="unexplained stale-slot delta-dropped",
)
def failed_load_is_not_undone(load: Any) -> Any:
    """A load that fails half-way has overwritten some layers of the adapter that should have left."""
    return _load_for_good


@plant(LoRAExperts, "restore", origin="M3, its other half", clauses="LIFE-3", anomalies="stale-slot delta-dropped")
def a_mixture_is_put_back_for_its_first_product_alone(restore: Any) -> Any:
    """A load that fails half-way leaves all of a mixture's slots but the first as it wrote them."""

    def restoring(self: LoRAExperts, slot: int, saved: Any) -> None:
        slots, place = self._slots(slot)[0]
        slots.restore(place, saved[:3])

    return restoring


@plant(LoRAEmbedding, "restore", origin="M3, its other half", clauses="LIFE-3", anomalies="stale-slot delta-dropped")
def an_embedding_is_not_put_back(restore: Any) -> Any:
    """A load that fails half-way leaves an embedding as it wrote it."""
    return lambda self, slot, saved: None


@plant(
    LoRAExperts, "set_batch", origin="M1, vllm #47724", clauses="LIFE-3 LIFE-1", anomalies="stale-slot delta-dropped"
)
def a_mixture_keeps_its_first_map(set_batch: Any) -> Any:
    """A mixture is told once which slots serve its tokens."""

    def once(self: LoRAExperts, batch: Any) -> None:
        if not self.batch.active:
            set_batch(self, batch)

    return once


@plant(LoRAManager, "activate", origin="vllm 0.33.0, the LRU manager", clauses="LIFE-3", anomalies="state-lost")
def victim_leaves_first(activate: Any) -> Any:
    """The least recently used adapter is evicted before it is known whether the new one loads."""

    def activating(self: LoRAManager, adapter_id: int) -> bool:
        if adapter_id not in self._active and self._active.full:
            self.deactivate(next(iter(self._active)))
        return activate(self, adapter_id)  # type: ignore[no-any-return]

    return activating


@plant(PeftConfig, "scaling_of", origin="M9, vllm #6909", clauses="MATH-12", anomalies="scale-wrong")
def rslora_as_lora(scaling_of: Any) -> Any:
    """Rank-stabilised adapters are scaled by alpha / r instead of alpha / √r."""

    def scaling(self: PeftConfig, module: str) -> float:
        whole: float = scaling_of(self, module)
        return whole / self.rank_of(module) ** 0.5 if self.use_rslora else whole

    return scaling


@plant(PeftConfig, "scaling_of", origin="patterns are easily forgotten", clauses="MATH-12", anomalies="scale-wrong")
def alpha_pattern_ignored(scaling_of: Any) -> Any:
    """Every module is scaled with the adapter's own alpha, whatever its pattern says."""

    def scaling(self: PeftConfig, module: str) -> float:
        rank = self.rank_of(module)
        return self.lora_alpha / (rank**0.5 if self.use_rslora else rank)

    return scaling


@plant_together(origin="D10, vllm #42757", clauses="WRAP-5", anomalies="wrapped-twice raised")
@contextmanager
def alias_wrapped_anew() -> Iterator[None]:
    """A module under two names gets two wrappers; the one without an adapter empties the slot of the other."""

    def one_by_one(model: Any) -> list[Site]:
        return [
            Site(site.module, [name], [place])
            for site in sites(model)
            for name, place in zip(site.names, site.places, strict=True)
        ]

    with ExitStack() as planted:
        planted.enter_context(patch.object(model_wrapping, "sites", one_by_one))
        planted.enter_context(
            patch.object(
                model_wrapping, "lora_layer", lambda layer, config, name="": LoRALinear(layer, config, name=name)
            )
        )
        yield


@plant(served_model, "wrap_model", origin="N6, vllm 0.33.0", clauses="WRAP-5", anomalies="refused-wrongly")
def only_the_first_name(wrap_model: Any) -> Any:
    """A module with two names takes adapters under the name that is met first only; others are dropped."""

    def wrapping(*args: Any) -> WrappedModel:
        found = wrap_model(*args)
        return WrappedModel(found.layers, {name: name for name in found.layers})

    return wrapping


@plant(Places, "victim", origin="the wrong end of a list", clauses="LIFE-2", anomalies="wrong-eviction")
def newest_leaves(victim: Any) -> Any:
    """The most recently used adapter makes room."""
    return lambda self, pinned: next((one for one in reversed(list(self)) if one not in pinned), None)


@plant(Places, "victim", origin="pins are easily forgotten", clauses="LIFE-2", anomalies="wrong-eviction not-refused")
def pins_forgotten(victim: Any) -> Any:
    """Pinned adapters are evicted like any other."""
    return lambda self, pinned: victim(self, set())


@plant(LoRAManager, "replace", origin="vllm 0.33.0", clauses="LIFE-2", anomalies="wrong-eviction not-refused")
def pin_lost_in_place(replace: Any) -> Any:
    """An adapter that is loaded again in its place is taken out before, and its pin with it."""

    def replacing(self: LoRAManager, adapter_id: int, adapter: Any) -> None:
        self._pinned.discard(adapter_id)
        replace(self, adapter_id, adapter)

    return replacing


@plant(Places, "use", origin="first in, first out", clauses="LIFE-2", anomalies="wrong-eviction")
def use_is_not_noticed(use: Any) -> Any:
    """An adapter that is used again stays as old as it was."""
    return lambda self, holder: None if holder in self else use(self, holder)


@plant(
    TargetModules,
    "naming",
    origin="a suffix without its dot",
    clauses="TARGET-1",
    anomalies="wrapped-unasked refused-wrongly not-wrapped",
)
def any_ending_matches(naming: Any) -> Any:
    """A target matches whatever ends like it, in the middle of a name's part."""
    return lambda self, module: iter([target for target in self.names or () if module.endswith(target)])


@plant(
    PackedModules, "members", origin="S0d, vllm #35077", clauses="TARGET-1", anomalies="not-wrapped refused-wrongly"
)
def parent_unknown_by_child(members: Any) -> Any:
    """A packed layer is not named by its children."""
    return lambda self, name: ()


@plant(Site, "holds_modules", origin="D13, vllm #52313", clauses="TARGET-1", anomalies="refused-wrongly")
def holders_are_layers(holds: Any) -> Any:
    """A module that holds layers and is named like a target is taken for a layer that cannot be wrapped."""
    return lambda self: False


@plant(
    TargetModules,
    "__contains__",
    origin="an empty list is false",
    clauses="TARGET-2",
    anomalies="wrapped-unasked refused-wrongly",
)
def no_targets_are_all(contains: Any) -> Any:
    """An empty list of targets is taken for none given."""
    return lambda self, module: not self.names or contains(self, module)


@plant(TargetModules, "__contains__", origin="None is false", clauses="TARGET-2", anomalies="not-wrapped")
def none_given_is_none_wanted(contains: Any) -> Any:
    """Without target modules nothing is wrapped."""
    return lambda self, module: self.names is not None and contains(self, module)


@plant(LoRALinear, "rank_shards", origin="S0c, vllm #35077", clauses="RANK-1 RANK-2", anomalies="rank-indivisible")
def layers_are_not_asked(rank_shards: Any) -> Any:
    """The layers of a model are not asked into how many parts they cut the rank."""
    return lambda self: 1


@plant(LoRALinear, "rank_shards", origin="sharding is on or off", clauses="RANK-3", anomalies="rank-not-default")
def every_rank_cuts(rank_shards: Any) -> Any:
    """A layer is taken to cut the rank wherever there are several ranks, sharded adapters or not."""
    return lambda self: self.plan.tp_size


MUTANTS: tuple[Mutant, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Mutant))
