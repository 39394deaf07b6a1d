"""Tests of whole models, for plain transformers, PEFT and vLLM: checkpoint and adapter are made, saved, and loaded.

What an adapter adds is read from its slots, as the product of the factors in them, and compared with what the merged
checkpoint adds to the weights: that needs no forward, which a CPU has not for every module. Ranks run in turn.
"""

from __future__ import annotations

from collections.abc import Callable

from conformance.implementations.models import EXPERTS, HELD, LOGITS, OUTPUT, ROWS
from conformance.judging.anomalies.models import VANISHED
from conformance.judging.facts import Raised
from conformance.judging.model_facts import Added, Lost
from conformance.regressions.entries import StoredFailure
from conformance.test_files.dialects import Dialect
from conformance.test_files.layout import CannotWrite
from conformance.test_files.literals import one_line
from conformance.test_files.model_chains import ADDED
from conformance.test_files.model_configs import config_text
from conformance.test_files.model_histories import reloaded, started, switched_on, written
from conformance.test_files.model_parts import apart, featured
from conformance.test_files.model_scenes import (
    Told,
    added_or_refused,
    adding,
    last_name,
    requested,
    scripted,
    targets_of,
)
from conformance.test_files.script import Script
from strategies.models.cases import ModelCase


def script_of(failure: StoredFailure, case: ModelCase, dialect: Dialect) -> Script:
    """The chain of the case, loaded by vLLM, and what the clause says of the tensor that went wrong.

    Raises:
        CannotWrite: the clause, or the case, has no such form.
    """
    if dialect.impl != "vllm":
        raise CannotWrite("whole models are vLLM's, whoever serves them; replay the case")
    body = _BY_CLAUSE.get(failure.clause)
    if body is None:
        raise CannotWrite(f"{failure.clause} of a model has no form as a single file yet; replay the case")
    if case.adapter.saved:
        raise CannotWrite("an adapter that holds a module whole has no form as a single file yet; replay the case")
    sighting = failure.sighting
    fused = any("experts" in one for one in case.adapter.parameters)
    return body(Told(case, failure.anomaly, sighting.fact, sighting.place, config_text(case), fused))


def _arrives(told: Told) -> Script:
    """MODEL-1: the tensors are in the slots of some layer, or are refused by name."""
    if isinstance(told.fact, Raised):
        return _loads(told)
    if not isinstance(told.fact, Lost):
        raise CannotWrite("it was stored by an older release, in words alone; replay it")
    if told.fact.among_others:
        raise CannotWrite("tensors that vanish among others only have no form as a single file yet; replay the case")
    lines = ['_, worker = served(f"{folder}/base")', *added_or_refused(told, [last_name(told.fact.keys[0])])]
    written = [
        "layers = worker._adapter_manager.modules",
        "written = [one for one in layers if any(b.any() for b in layers[one].lora_b_stacked)]",
    ]
    keys = [] if told.fact.whole else [f"KEYS = {one_line(tuple(told.fact.keys))}"]
    several = told.case.tp_size > 1
    verdict = [f"assert {'any(outputs)' if several else 'written'}  # LoRA layers that got something of the adapter"]
    after, returns = (written, "written") if several else ([*written, *verdict], "")
    verdict = verdict if several else []
    return scripted(told, [*lines, *after], cut=bool(keys), definitions=keys, returns=returns, verdict=verdict)


def _loads(told: Told) -> Script:
    """MODEL-1: the adapter is loaded, or refused by name."""
    names = targets_of(told.case.adapter)
    return scripted(told, ['_, worker = served(f"{folder}/base")', *added_or_refused(told, names)])


def _merged(told: Told) -> Script:
    """MODEL-2 and MODEL-7: what the adapter adds to a module is what the merged checkpoint adds."""
    fact = told.fact
    if isinstance(fact, Raised) and told.case.stage is not None:  # of an adapter that the whole model takes
        return scripted(told, ['_, worker = served(f"{folder}/base")', *requested(told), adding(told)])
    if not isinstance(fact, Added):
        raise CannotWrite("it was stored by an older release, in words alone; replay it")
    if fact.part == ROWS or told.place.module == LOGITS:
        raise CannotWrite("an embedding's or a head's numbers have no form as a single file yet; replay the case")
    if told.case.tp_size > 1 and fact.part in EXPERTS:
        raise CannotWrite("experts on several ranks have no form as a single file yet; replay the case")
    if told.case.options and fact.part in EXPERTS:
        raise CannotWrite("experts under an option have no form as a single file yet; replay the case")
    if fact.part.startswith(HELD):
        return _held(told, fact.part.removeprefix(HELD))
    served = ['model, worker = served(f"{folder}/base")', 'other, _ = served(f"{folder}/merged")', *requested(told)]
    modules = "layer, right = (one.get_submodule(name) for one in (model, other))"
    named = [f'name = "{told.place.module}"', modules]
    if fact.part not in (OUTPUT, "weight", *EXPERTS):
        before = f"before = layer.{fact.part}.clone()"
        each = f"added, merged = (one.{fact.part} - before for one in (layer, right))"
        return _compared(told, fact.part, [*served, *named, before, adding(told)], [each])
    if told.anomaly == VANISHED and told.case.tp_size > 1:
        got = [*served, adding(told), named[0], "layer = model.get_submodule(name)"]
        got.append('got = any(b.any() for b in getattr(layer, "lora_b_stacked", ()))')
        verdict = ["assert all(outputs)  # on every rank the module got something of the adapter"]
        return scripted(told, [one for one in got if "other" not in one], returns="got", verdict=verdict)
    if told.anomaly == VANISHED:
        named.append("assert isinstance(layer, BaseLayerWithLoRA)  # or no adapter reaches it")
    part = "weight" if fact.part == OUTPUT else fact.part
    merged = f"merged = right.base_layer.{part} - layer.base_layer.{part}"
    if fact.part in EXPERTS:
        merged = f"merged = right.{part} - layer.{part}"
        around = told.place.module.removesuffix(".routed_experts")
        lora = f'lora = model.get_submodule("{around}")'
        return _compared(told, fact.part, [*served, adding(told)], [*named, merged, lora, *_experts(fact.part)])
    factors = "[(a[0, 0], b[0, 0]) for a, b in zip(layer.lora_a_stacked, layer.lora_b_stacked, strict=True)]"
    if told.case.fully_sharded and told.case.tp_size > 1:
        return _gathered(told, fact.part, [*served, adding(told)], [*named, merged, f"slots = {factors}"])
    pairs = "slots = zip(layer.lora_a_stacked, layer.lora_b_stacked, strict=True)"
    added = "added = torch.cat([b[0, 0] @ a[0, 0] for a, b in slots]).view_as(merged)"
    return _compared(told, fact.part, [*served, adding(told)], [*named, merged, pairs, added])


def _held(told: Told, alias: str) -> Script:
    """MODEL-2: who has the module by another name has the LoRA layer that is around it."""
    if told.case.tp_size > 1:
        raise CannotWrite("who holds a layer on several ranks has no form as a single file yet; replay the case")
    holder, _, name = alias.rpartition(".")
    lines = [
        'model, worker = served(f"{folder}/base")',
        *requested(told),
        adding(told),
        "holder = model",
        f'for part in "{holder}".split("."):',
        "    holder = getattr(holder, part)",
        '    holder = getattr(holder, "base_layer", holder)',
        f'layer = model.get_submodule("{told.place.module}")',
        "assert isinstance(layer, BaseLayerWithLoRA)",
        f"assert holder.{name} is layer  # or what it calls knows of no adapter",
    ]
    return scripted(told, lines)


def _compared(told: Told, part: str, lines: list[str], added: list[str]) -> Script:
    """An output has the rows of its weight last."""
    turned = ".T" if part == OUTPUT else ""
    if told.case.tp_size == 1:
        verdict = f"assert added{turned}.tolist() == merged{turned}.tolist()"
        return scripted(told, [*lines, *added, verdict], merged=True)
    returns = f"added{turned}.tolist(), merged{turned}.tolist()"
    verdicts = ["added, merged = zip(*outputs, strict=True)  # by rank", "assert added == merged"]
    return scripted(told, [*lines, *added], merged=True, returns=returns, verdict=verdicts)


def _gathered(told: Told, part: str, lines: list[str], slots: list[str]) -> Script:
    """Fully sharded layers cut one factor by rank: the other ranks' parts belong to it."""
    turned = ".T" if part == OUTPUT else ""
    each = f"whole(slots, rank, len(one)){turned}.tolist() for rank, one in enumerate(merged)"
    verdict = [
        "slots, merged = zip(*outputs, strict=True)  # by rank",
        f"added = [{each}]",
        f"assert added == [one{turned}.tolist() for one in merged]",
    ]
    lines = [*lines, *slots]
    return scripted(told, lines, merged=True, returns="slots, merged", verdict=verdict, definitions=[ADDED])


def _experts(part: str) -> list[str]:
    which = part.removesuffix("_weight")
    pairs = f"slots = zip(lora.{which}_lora_a_stacked, lora.{which}_lora_b_stacked, strict=True)"
    return [pairs, 'added = torch.cat([torch.einsum("eor,eri->eoi", b[0], a[0]) for a, b in slots], 1)']


_BY_CLAUSE: dict[str, Callable[[Told], Script]] = {
    "MODEL-1": _arrives,
    "MODEL-2": _merged,
    "MODEL-3": written,
    "MODEL-4": switched_on,
    "MODEL-5": reloaded,
    "MODEL-6": started,
    "MODEL-7": _merged,
    "MODEL-9": featured,
    "MODEL-10": apart,
}
