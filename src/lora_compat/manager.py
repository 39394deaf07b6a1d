"""`LoRAManager`: the adapters of a whole model, from file to token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from lora_compat.adapters import LayerAdapter, LoRAConfig
from lora_compat.errors import AdapterStateError, FullHouseError
from lora_compat.kernels import NO_ADAPTER, TokenBatch
from lora_compat.lru import Places
from lora_compat.model_adapters import Adapter, AdapterLayout
from lora_compat.model_wrapping import wrap_model
from lora_compat.peft_loading import load_adapter
from lora_compat.targets import PackedModules, TargetModules
from lora_compat.warmup import DEFAULT_RANK, dummy_adapter, warmup_rank_of
from lora_compat.wrapper import LoRALinear

REST = ""  # the tower of every module that is in no other


class LoRAManager:
    """Wraps a model, holds its adapters, and says which of them serves which token.

    An adapter is *registered* (its tensors are held) and, to serve tokens, *active* (it is loaded into a slot of
    every layer). Both places are limited; when they run out the least recently used adapter that is not pinned
    makes room, or, without ``evict``, the request is refused. Used means added or activated, again or for the first
    time. Every method either does what it says or raises and leaves all as it was. Adapter tensors are never
    written to. On several ranks every rank makes the same calls. Not safe for threads that share a manager.

    A batch maps tokens to adapter *ids*; which slots these are is looked up whenever an adapter moves, so a token
    whose adapter left gets the base model, and never the slot's next adapter.
    """

    def __init__(
        self,
        model: nn.Module,
        config: LoRAConfig,
        *,
        target_modules: Sequence[str] | None = None,
        packed_modules: PackedModules | None = None,
        max_adapters: int | None = None,
        towers: Sequence[str] = (),
        evict: bool = True,
    ) -> None:
        """Replaces the targeted layers of ``model`` in place.

        Args:
            model: built and loaded; its layers must have their weights.
            target_modules: names or last parts of names (see `TargetModules`); None wraps all that is supported.
            packed_modules: which checkpoint modules the model's packed layers stand for.
            max_adapters: how many adapters are held; ``config.max_loras`` unless given.
            towers: name prefixes of parts of the model whose tokens are mapped on their own (a vision tower).
            evict: whether a new adapter may take the place of the least recently used one.

        Raises:
            UnknownTargetError, TargetModuleError, WrappedOtherwiseError: see `wrap_model`.
            ValueError: ``max_adapters`` is below ``config.max_loras``.
        """
        held = config.max_loras if max_adapters is None else max_adapters
        if held < config.max_loras:
            raise ValueError(f"max_adapters={held} is below max_loras={config.max_loras}: what is active is held too")
        packed = packed_modules or PackedModules()
        wrapped = wrap_model(model, config, TargetModules(target_modules, packed))
        self.model, self.config, self.evict = model, config, evict
        self.layers = dict(wrapped.layers)
        self._layout = AdapterLayout(wrapped.names, packed)
        self._registered, self._active = Places(held), Places(config.max_loras)
        self._adapters: dict[int, dict[str, LayerAdapter]] = {}
        self._slots: list[int | None] = [None] * config.max_loras
        self._pinned: set[int] = set()
        self._towers = {tower: self._in_tower(tower, towers) for tower in (*towers, REST)}
        self._tokens: dict[str, tuple[int | None, ...]] = {}

    @property
    def registered(self) -> tuple[int, ...]:
        """The adapters held, least recently used first."""
        return tuple(self._registered)

    @property
    def active(self) -> tuple[int, ...]:
        """The adapters in slots, least recently used first."""
        return tuple(self._active)

    @property
    def slots(self) -> tuple[int | None, ...]:
        """For each slot the adapter in it."""
        return tuple(self._slots)

    @property
    def pinned(self) -> frozenset[int]:
        """The adapters that are never evicted."""
        return frozenset(self._pinned)

    def add(self, adapter_id: int, adapter: Adapter | str | Path) -> bool:
        """Registers an adapter, from memory or from a PEFT directory; every shape is checked now.

        Returns:
            False where the id is registered already: it counts as used, and keeps the tensors it has.

        Raises:
            AdapterFormatError: the directory holds no adapter that can be served.
            UnknownModulesError: it adapts a module that carries no LoRA here.
            AdapterShapeError, AmbiguousPartsError: a tensor does not fit its module.
            FullHouseError: no place, and nobody may be evicted.
        """
        if adapter_id in self._registered:
            self._registered.use(adapter_id)
            return False
        loaded = adapter if isinstance(adapter, Adapter) else load_adapter(adapter)
        by_layer = self._layout.by_layer(loaded)
        for name, part in by_layer.items():
            self.layers[name].slots.check(part)
        victim = self._victim(self._registered, "place for an adapter", "max_adapters")
        if victim is not None:
            self.remove(victim)
        self._adapters[adapter_id] = by_layer
        self._registered.use(adapter_id)
        return True

    def activate(self, adapter_id: int) -> bool:
        """Loads a registered adapter into a slot of every layer, or into none.

        Returns:
            False where it was active already.

        Raises:
            AdapterStateError: it is not registered.
            FullHouseError: no slot is free, and nobody may be evicted.
        """
        self._require_registered(adapter_id)
        fresh = adapter_id not in self._active
        if fresh:
            victim = self._victim(self._active, "slot", "max_loras")
            slot = self._slots.index(victim)
            self._load(slot, self._adapters[adapter_id])
            if victim is not None:
                self._active.free(victim)
            self._slots[slot] = adapter_id
        self._active.use(adapter_id)
        self._registered.use(adapter_id)
        self._select()
        return fresh

    def deactivate(self, adapter_id: int) -> bool:
        """Empties the adapter's slot; it stays registered. False where it is not active."""
        if adapter_id not in self._active:
            return False
        slot = self._slots.index(adapter_id)
        self._slots[slot] = None
        self._active.free(adapter_id)
        self._select()
        for layer in self.layers.values():
            layer.reset_lora(slot)
        return True

    def remove(self, adapter_id: int) -> bool:
        """Forgets the adapter, active or pinned as it may be. False where it is not registered."""
        if adapter_id not in self._registered:
            return False
        self.deactivate(adapter_id)
        self._pinned.discard(adapter_id)
        self._registered.free(adapter_id)
        del self._adapters[adapter_id]
        return True

    def pin(self, adapter_id: int) -> bool:
        """Activates the adapter if it is not, and keeps it from being evicted until it is unpinned or removed.

        Raises:
            AdapterStateError, FullHouseError: see `activate`.
        """
        self._require_registered(adapter_id)
        if adapter_id not in self._active:
            self.activate(adapter_id)
        fresh = adapter_id not in self._pinned
        self._pinned.add(adapter_id)
        return fresh

    def unpin(self, adapter_id: int) -> bool:
        """Lets the adapter be evicted again. False where it was not pinned."""
        fresh = adapter_id in self._pinned
        self._pinned.discard(adapter_id)
        return fresh

    def map_tokens(self, adapter_ids: Sequence[int | None], *, tower: str = REST) -> None:
        """Says which active adapter serves each token of the next forwards; None for the base model.

        Raises:
            AdapterStateError: an id is not active; the former map stays.
            ValueError: there is no such tower.
        """
        if tower not in self._towers:
            raise ValueError(f"no tower {tower!r}: give one of {', '.join(map(repr, self._towers))}")
        for adapter_id in dict.fromkeys(adapter_ids):
            if adapter_id is not None and adapter_id not in self._active:
                raise AdapterStateError(adapter_id, "active", self._active, "activate it before mapping tokens to it")
        self._tokens[tower] = tuple(adapter_ids)
        self._select()

    def warmup_rank(self, *, default: int = DEFAULT_RANK) -> int:
        """The rank of the dummy adapters (RANK-1 to RANK-4).

        Raises:
            WarmupRankError: no rank that every layer can cut is within ``max_lora_rank``.
        """
        return warmup_rank_of(self.model, max_lora_rank=self.config.max_lora_rank, default=default)

    @contextmanager
    def warmed_up(self, tokens: int, *, default: int = DEFAULT_RANK) -> Iterator[int]:
        """Inside, dummy adapters of the warm-up rank fill the free slots and serve ``tokens`` tokens, every tower's.

        Yields:
            The rank.

        Raises:
            WarmupRankError: see `warmup_rank`.
            FullHouseError: no slot is free.
        """
        rank = self.warmup_rank(default=default)
        free = [slot for slot, holder in enumerate(self._slots) if holder is None]
        if not free:
            raise FullHouseError(
                "slot", len(self._slots), self._active, "max_loras", "and a warm-up needs an empty one"
            )
        try:
            for layer in self.layers.values():
                for slot in free:
                    layer.set_lora(slot, dummy_adapter(layer, rank))
            self._set_batches(list(self.layers), [free[token % len(free)] for token in range(tokens)])
            yield rank
        finally:
            for layer in self.layers.values():
                for slot in free:
                    layer.reset_lora(slot)
            self._set_batches(list(self.layers), ())
            self._select()

    def _load(self, slot: int, adapter: dict[str, LayerAdapter]) -> None:
        """Writes one slot of every layer; whatever is raised half-way, all of them are as before (M3)."""
        before: list[tuple[LoRALinear, tuple[torch.Tensor, ...]]] = []
        try:
            for name, layer in self.layers.items():
                before.append((layer, layer.slots.saved(slot)))
                if name in adapter:
                    layer.set_lora(slot, adapter[name])
                else:
                    layer.reset_lora(slot)
        except BaseException:
            for layer, content in before:
                layer.slots.restore(slot, content)
            raise

    def _select(self) -> None:
        """Looks the batches' ids up again: adapters may have moved since (M1)."""
        slot_of = {holder: slot for slot, holder in enumerate(self._slots) if holder is not None}
        for tower, ids in self._tokens.items():
            slots = [NO_ADAPTER if one is None else slot_of.get(one, NO_ADAPTER) for one in ids]
            self._set_batches(self._towers[tower], slots)

    def _set_batches(self, names: Sequence[str], slots: Sequence[int]) -> None:
        batches: dict[torch.device, TokenBatch] = {}
        for name in names:
            device = self.layers[name].slots.lora_a.device
            if device not in batches:
                batches[device] = TokenBatch.of(slots, device)
            self.layers[name].set_batch(batches[device])

    def _victim(self, places: Places, place: str, setting: str) -> int | None:
        """Who leaves so that one more fits; None where nobody has to."""
        if not places.full:
            return None
        victim = places.victim(self._pinned) if self.evict else None
        if victim is None:
            why = "and all are pinned" if self.evict else "and nobody is evicted here"
            raise FullHouseError(place, places.capacity, places, setting, why)
        return victim

    def _require_registered(self, adapter_id: int) -> None:
        if adapter_id not in self._registered:
            raise AdapterStateError(adapter_id, "registered", self._registered, "add it first")

    def _in_tower(self, tower: str, towers: Sequence[str]) -> list[str]:
        """The layers of ``tower``, the most specific prefix deciding."""
        owners = {
            name: max((t for t in towers if name == t or name.startswith(t + ".")), key=len, default=REST)
            for name in self.layers
        }
        return [name for name, owner in owners.items() if owner == tower]
