"""`LoRAManager`: the adapters of a whole model, from file to token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from torch import nn

from lora_compat.adapters import LoRAConfig
from lora_compat.checkpoint_map import CheckpointMap
from lora_compat.errors import AdapterStateError, FullHouseError
from lora_compat.lru import Places
from lora_compat.model_adapters import Adapter, LayerAdapters
from lora_compat.model_slots import ModelSlots
from lora_compat.served_model import by_declaration, by_map
from lora_compat.targets import PackedModules
from lora_compat.token_maps import REST, TokenMaps
from lora_compat.warmup import DEFAULT_RANK, dummy_adapter, warmup_rank_of


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
        checkpoint: CheckpointMap | None = None,
        ranks: Sequence[CheckpointMap] = (),
    ) -> None:
        """Replaces the targeted layers of ``model`` in place.

        Args:
            model: built and loaded; its layers must have their weights.
            target_modules: names or last parts of names (see `TargetModules`); None wraps all that is supported.
            packed_modules: which checkpoint modules the model's packed layers stand for.
            max_adapters: how many adapters are held; ``config.max_loras`` unless given.
            towers: name prefixes of parts of the model whose tokens are mapped on their own (a vision tower).
            evict: whether a new adapter may take the place of the least recently used one.
            checkpoint: where the model's loader puts its checkpoint on this rank. With it nothing is declared, and
                adapters are PEFT directories, of whatever the loader moves.
            ranks: ``checkpoint`` of every rank, in their order, where there are several. They tell each other by the
                group that is current now whether base weights that an adapter's file repeats are theirs.

        Raises:
            MapMismatchError, PackedModulesError: ``checkpoint`` is of another model, or ``packed_modules`` is.
            UnknownTargetError, TargetModuleError, WrappedOtherwiseError: see `wrap_model`.
            ValueError: ``max_adapters`` is below ``config.max_loras``.
        """
        held = config.max_loras if max_adapters is None else max_adapters
        if held < config.max_loras:
            raise ValueError(f"max_adapters={held} is below max_loras={config.max_loras}: what is active is held too")
        packed = packed_modules or PackedModules()
        if checkpoint is None:
            served = by_declaration(model, config, target_modules, packed)
        else:
            served = by_map(model, config, target_modules, packed, checkpoint, ranks)
        self.model, self.config = model, config
        self.layers = dict(served.layers)
        self._lay_out = served.lay_out
        self._registered = Places(held, "place for an adapter", "max_adapters", evict)
        self._active = Places(config.max_loras, "slot", "max_loras", evict)
        self._adapters: dict[int, LayerAdapters] = {}
        self._slots = ModelSlots(self.layers, config.max_loras)
        self._maps = TokenMaps(self.layers, towers, self._slots.filled)
        self._pinned: set[int] = set()

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
        return tuple(self._slots.holders)

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
        by_layer = self._lay_out(adapter)
        self._slots.check(by_layer)
        victim = self._registered.victim_for_one_more(self._pinned)
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
            victim = self._active.victim_for_one_more(self._pinned)
            slot = self._slots.holders.index(victim)
            self._slots.load(slot, self._adapters[adapter_id])
            if victim is not None:
                self._active.free(victim)
            self._slots.holders[slot] = adapter_id
        self._active.use(adapter_id)
        self._registered.use(adapter_id)
        self._select()
        return fresh

    def replace(self, adapter_id: int, adapter: Adapter | str | Path) -> None:
        """Loads an adapter in the place of that of its id: pinned if that was, active; raises what those two do."""
        if adapter_id not in self._registered:
            self.add(adapter_id, adapter)
        by_layer = self._lay_out(adapter)
        self._slots.check(by_layer)
        self.activate(adapter_id)
        self._slots.load(self._slots.holders.index(adapter_id), by_layer)
        self._adapters[adapter_id] = by_layer
        self._select()

    def deactivate(self, adapter_id: int) -> bool:
        """Empties the adapter's slot; it stays registered. False where it is not active."""
        if adapter_id not in self._active:
            return False
        slot = self._slots.holders.index(adapter_id)
        self._slots.holders[slot] = None
        self._active.free(adapter_id)
        self._select()
        self._slots.reset(slot)
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
        """Activates the adapter, as `activate` does, and keeps it until it is unpinned or removed."""
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
        for adapter_id in dict.fromkeys(adapter_ids):
            if adapter_id is not None and adapter_id not in self._active:
                raise AdapterStateError(adapter_id, "active", self._active, "activate it before mapping tokens to it")
        self._maps.assign(tower, adapter_ids)
        self._select()

    def warmup_rank(self, *, default: int = DEFAULT_RANK) -> int:
        """The rank of the dummy adapters (RANK-1 to RANK-4), or a `WarmupRankError`: none within ``max_lora_rank``."""
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
        free = self._slots.free
        if not free:
            why = "and a warm-up needs an empty one"
            raise FullHouseError("slot", self.config.max_loras, self._active, "max_loras", why)
        try:
            for slot in free:
                self._slots.load(slot, {name: dummy_adapter(layer, rank) for name, layer in self.layers.items()})
            self._maps.set_slots(list(self.layers), [free[token % len(free)] for token in range(tokens)])
            yield rank
        finally:
            for slot in free:
                self._slots.reset(slot)
            self._maps.set_slots(list(self.layers), ())
            self._select()

    def _select(self) -> None:
        self._maps.select(self._slots.holders)

    def _require_registered(self, adapter_id: int) -> None:
        if adapter_id not in self._registered:
            raise AdapterStateError(adapter_id, "registered", self._registered, "add it first")
