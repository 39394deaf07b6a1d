"""What a rank does with a case's chain, one program for each question that the clauses of chapter MODEL ask."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from conformance.engines.ranks import RankGroup
from conformance.implementations.models import ModelServer, ModelSettings, ServedModel
from conformance.subjects.models.adapters import cut
from conformance.subjects.models.chains import Chain
from conformance.subjects.models.company import Company, in_company
from conformance.subjects.models.likeness import State, has_all, on_any, passed_over, unlike
from conformance.subjects.models.observing import (
    ADAPTED,
    Readings,
    Refusal,
    attempt,
    base_readings,
    once,
    right_readings,
)
from conformance.subjects.models.writings import Writing
from conformance.subjects.outcomes import NotExercised

_NUMBER = re.compile(r"\.\d+(?=\.)")
Seen = tuple[Readings, Readings, Readings]


@dataclass(frozen=True, slots=True)
class Alone:
    """The tensors of one module of a file: how they load by themselves, and whether anything shows of them.

    ``by_itself`` is a refusal, or whether any module computes something else; ``among_others`` whether it is missed
    where the rest of the file is loaded without them.
    """

    keys: tuple[str, ...]
    by_itself: Refusal | bool
    among_others: bool


@dataclass(frozen=True, slots=True)
class Programs:
    """The programs of one case."""

    server: ModelServer
    chain: Chain
    settings: ModelSettings

    def served(self, group: RankGroup) -> Seen | Refusal:
        """Readings of the base, of the merged checkpoint and with the adapter, or why it was not loaded."""
        right = right_readings(self.server, self.chain, self.settings, group)
        base, seen = self._once(group, lambda: self._adapted(group, *self._loaded(group)))
        return seen if isinstance(seen, Refusal) else (base, right, seen)

    def one_by_one(self, group: RankGroup) -> tuple[Readings, Readings, Refusal | None, list[Alone]]:
        """Readings of base and merged checkpoint, how the whole file loads, and how some of its tensors do."""
        right = right_readings(self.server, self.chain, self.settings, group)
        model, base = self._loaded(group)
        before = State.of(model, base)
        _, seen = self._adapted(group, model, base)
        refusal, whole = (seen, before) if isinstance(seen, Refusal) else (None, State.of(model, seen))
        model.remove(1)
        found = []
        for number, keys in enumerate(self._looked_at()):
            alone = self.chain.file.alone(keys)
            by_itself = _add(model, self._cut(f"only-{number}", alone), group)
            held = model.held() if alone == set(keys) else None  # what others bring tells nothing of these
            shows = by_itself is None and unlike(model, keys, group, before, held) is not None
            model.remove(1)
            among_others = refusal is not None or not on_any(group, not has_all(whole, before, held))
            if shows and not among_others:
                among_others = self._missed(f"without-{number}", keys, group, model, whole)
            found.append(Alone(keys, by_itself or shows, among_others))
        return base, right, refusal, found

    def _missed(self, name: str, keys: tuple[str, ...], group: RankGroup, model: ServedModel, whole: State) -> bool:
        """Whether the tensors of a module are missed where the others of the file are loaded without them."""
        others = {key for keys in self.chain.file.keys_by_module() for key in keys} - set(keys)
        left_out = others and _add(model, self._cut(name, others), group) is None
        missed = not left_out or unlike(model, keys, group, whole, model.held()) is not None
        model.remove(1)
        return missed

    def taken(self, group: RankGroup) -> dict[str, bool]:
        """The tensors of the file that are served where those of their module are alone: loaded, and seen.

        Each with whether it is seen by every name that the module is held by.
        """
        model, base = self._loaded(group)
        before = State.of(model, base)
        found: dict[str, bool] = {}
        for number, keys in enumerate(self.chain.file.keys_by_module()):
            only = self._cut(f"taken-{number}", self.chain.file.alone(keys))
            if _add(model, only, group) is None:
                seen = unlike(model, keys, group, before, model.held())
                if seen is not None:
                    found |= dict.fromkeys(keys, not passed_over(seen))
                model.remove(1)
        return found

    def written(self, writings: Sequence[Writing], group: RankGroup) -> list[tuple[Readings, Readings | Refusal]]:
        """Readings of the base and with the adapter, as PEFT wrote it and in each other way.

        A model that took one way is asked for the next; one that did not may have taken a part of it.
        """
        ways = [(self.chain.adapter, self.settings.fused_experts)]
        ways += [(one.directory, one.fused_experts) for one in writings]
        seen: list[tuple[Readings, Readings | Refusal]] = []
        loaded: dict[bool, tuple[ServedModel, Readings]] = {}
        for directory, fused in ways:
            if fused not in loaded:
                loaded[fused] = self._loaded(group, replace(self.settings, fused_experts=fused))
            model, base = loaded[fused]
            if not seen:
                seen.append(self._adapted(group, model, base))
            else:
                seen.append((base, _add(model, directory, group) or model.read(1)))
            if isinstance(seen[-1][1], Refusal) or attempt(partial(model.remove, 1), group):
                del loaded[fused]
        return seen

    def switched_on(self, group: RankGroup) -> Seen:
        """Readings without LoRA, with it and no adapter, and after an adapter came and went."""
        bare = self.loaded_bare(group).read(None)
        model, _ = self._loaded(group)
        before = model.read(None)
        _add(model, self.chain.adapter, group)
        model.remove(1)
        return bare, before, model.read(None)

    def in_company(self, group: RankGroup) -> Company | Refusal:
        """The adapter, and another one of every second of its modules, with B of the other sign."""
        other = self.chain.root / "other"
        if not other.exists():
            keys = {key for keys in self.chain.file.keys_by_module()[::2] for key in keys}
            cut(self.chain.adapter, other, keys, turned=True)
        model, base = self._loaded(group)
        _, first = self._adapted(group, model, base)
        if isinstance(first, Refusal):
            return first
        return in_company(model, group, base, first, self.chain.adapter, other, slots=self.settings.max_loras)

    def apart(self, group: RankGroup) -> tuple[tuple[str, ...], Readings, Readings, Readings | Refusal] | Refusal:
        """The modules of towers, and readings of the base, with the adapter, and likewise in a batch that has text."""
        model, base = self._loaded(group)
        _, together = self._adapted(group, model, base)
        if isinstance(together, Refusal):
            return together
        read: list[Readings] = []
        broken = attempt(lambda: read.append(model.read(1, apart=True)), group)
        return model.towers(), base, together, broken or read[0]

    def logits(self, tokens: Tensor, group: RankGroup) -> tuple[Tensor, Tensor] | Refusal:
        """The logits of one sequence without LoRA and with the adapter, or why it was not loaded; in float64."""
        model = self.server.load(self.chain.base, replace(self.settings, dtype=torch.float64), group)
        base = model.logits(None, tokens)
        _start(model, group)
        refusal = _add(model, self.chain.adapter, group)
        return refusal or (base, model.logits(1, tokens))

    def featured(self, feature: str, group: RankGroup) -> tuple[Readings, Readings | Refusal, Readings | Refusal]:
        """Readings of the base, with the adapter, and with its A, B and scaling alone, or why it was not loaded."""
        plain = self._cut("plain", {key for pair in self.chain.file.pairs for key in pair.keys}, feature)
        model, base = self._loaded(group)
        seen = _add(model, self.chain.adapter, group) or model.read(1)
        model.remove(1)
        return base, seen, _add(model, plain, group) or model.read(1)

    def loaded_bare(self, group: RankGroup) -> ServedModel:
        """The base without LoRA."""
        off = replace(self.settings, lora=False, fused_experts=False)
        return self.server.load(self.chain.base, off, group)

    def started(self, group: RankGroup) -> Refusal | None:
        """How the start of an engine broke off, warm-up included."""
        model = self.server.load(self.chain.base, self.settings, group)
        return attempt(model.serve_adapters, group) or attempt(model.warm_up, group)

    def _loaded(self, group: RankGroup, settings: ModelSettings | None = None) -> tuple[ServedModel, Readings]:
        """The base, ready for adapters, and what it computes before."""
        settings = settings or self.settings
        model = self.server.load(self.chain.base, settings, group)
        base = base_readings(self.server, self.chain, settings, group, model)
        _start(model, group)
        return model, base

    def _adapted(self, group: RankGroup, model: ServedModel, base: Readings) -> tuple[Readings, Readings | Refusal]:
        """Loads the adapter into a model that had none before: readings of the base, and what is read once with it."""
        refusal = _add(model, self.chain.adapter, group)
        return self._once(group, lambda: (base, refusal or model.read(1)))

    def _once(
        self, group: RankGroup, read: Callable[[], tuple[Readings, Readings | Refusal]]
    ) -> tuple[Readings, Readings | Refusal]:
        return once(self.chain, (ADAPTED, self.server, self.settings), group, read)

    def _looked_at(self) -> list[tuple[str, ...]]:
        """The keys of modules: of those whose names differ by numbers, such as that of the layer, first and last."""
        places: dict[str, list[tuple[str, ...]]] = {}
        for keys in self.chain.file.keys_by_module():
            places.setdefault(_NUMBER.sub(".#", keys[0]), []).append(keys)
        return list(dict.fromkeys(keys for alike in places.values() for keys in (alike[0], alike[-1])))

    def _cut(self, name: str, keys: set[str], feature: str = "") -> Path:
        """The adapter's directory with some of its tensors only, made once."""
        directory = self.chain.root / name
        if not directory.exists():
            cut(self.chain.adapter, directory, keys, feature)
        return directory


def _add(model: ServedModel, directory: Path, group: RankGroup) -> Refusal | None:
    return attempt(partial(model.add, 1, directory), group)


def _start(model: ServedModel, group: RankGroup) -> None:
    refusal = attempt(model.serve_adapters, group)
    if refusal:
        raise NotExercised(f"wrong without what it is about already: it does not start with LoRA ({refusal.kind})")
