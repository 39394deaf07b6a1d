"""Tests of whole models, for plain transformers, PEFT and vLLM: checkpoint and adapter are made, saved, and loaded.

What an adapter adds is read from its slots, as the product of the factors in them, and compared with what the merged
checkpoint adds to the weights: that needs no forward, which a CPU has not for every module. Ranks run in turn.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from conformance.implementations.models import EXPERTS, LOGITS, OUTPUT, ROWS
from conformance.judging.anomalies.models import VANISHED
from conformance.judging.facts import Place, Raised
from conformance.judging.model_facts import Added, Lost
from conformance.regressions.entries import StoredFailure
from conformance.test_files.dialects import Dialect
from conformance.test_files.layout import CannotWrite
from conformance.test_files.literals import indented, one_line
from conformance.test_files.model_chains import ADDED, Engine, definitions, imports_of, made
from conformance.test_files.model_configs import ConfigText, config_text
from conformance.test_files.script import Script
from strategies.models.cases import ModelCase


@dataclass(frozen=True, slots=True)
class Told:
    """A failure of a model: the case, what was seen of it, and where."""

    case: ModelCase
    anomaly: str
    fact: Any
    place: Place
    config: ConfigText


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
    return body(Told(case, failure.anomaly, sighting.fact, sighting.place, config_text(case)))


def _script(told: Told, lines: Sequence[str], *, merged: bool = False, cut: bool = False, **more: Any) -> Script:
    engine = Engine(told.case, told.config)
    defined = [*more.pop("definitions", []), *definitions(engine)]
    whole = [*made(engine, merged=merged, cut=cut), *lines]
    text = "\n".join([*defined, *whole, *more.get("verdict", [])])
    several = told.case.tp_size > 1
    return Script(
        lines=whole,
        definitions=defined,
        imports=imports_of(text, told.config),
        ranks=told.case.tp_size,
        world=told.case.tp_size if several else 0,
        in_turn=several,
        **more,
    )


def _added(told: Told) -> list[str]:
    """Statements after which ``_add(told)`` fits a line."""
    given = '"one", 1, f"{folder}/adapter", is_3d_lora_weight=True'
    return [f"request = LoRARequest({given})"] if Engine(told.case, told.config).fused else []


def _add(told: Told) -> str:
    """Has the worker load and activate the adapter."""
    if Engine(told.case, told.config).fused:
        return "worker.add_adapter(request)"
    return 'worker.add_adapter(LoRARequest("one", 1, f"{folder}/adapter"))'


def _arrives(told: Told) -> Script:
    """MODEL-1: the tensors are in the slots of some layer, or are refused by name."""
    if isinstance(told.fact, Raised):
        return _loads(told)
    if not isinstance(told.fact, Lost):
        raise CannotWrite("it was stored by an older release, in words alone; replay it")
    if told.fact.among_others:
        raise CannotWrite("tensors that vanish among others only have no form as a single file yet; replay the case")
    lines = ['_, worker = served(f"{folder}/base")', *_added_or_refused(told, [_last(told.fact.keys[0])])]
    written = [
        "layers = worker._adapter_manager.modules",
        "written = [one for one in layers if any(b.any() for b in layers[one].lora_b_stacked)]",
    ]
    keys = [] if told.fact.whole else [f"KEYS = {one_line(tuple(told.fact.keys))}"]
    several = told.case.tp_size > 1
    verdict = [f"assert {'any(outputs)' if several else 'written'}  # LoRA layers that got something of the adapter"]
    after, returns = (written, "written") if several else ([*written, *verdict], "")
    verdict = verdict if several else []
    return _script(told, [*lines, *after], cut=bool(keys), definitions=keys, returns=returns, verdict=verdict)


def _loads(told: Told) -> Script:
    """MODEL-1: the adapter is loaded, or refused by name."""
    adapter = told.case.adapter
    names = [one.removesuffix(".weight").rpartition(".")[2] for one in (*adapter.modules, *adapter.parameters)]
    return _script(told, ['_, worker = served(f"{folder}/base")', *_added_or_refused(told, names)])


def _added_or_refused(told: Told, names: Sequence[str]) -> list[str]:
    each = one_line(tuple(names))
    test = f'"{names[0]}" not in str(error)' if len(names) == 1 else f"not any(one in str(error) for one in {each})"
    refused = [f"if {test}:", "    raise", "return  # refused by name"]
    return [
        *_added(told),
        "try:",
        *indented([_add(told)]),
        "except (RuntimeError, ValueError) as error:",
        *indented(refused),
    ]


def _merged(told: Told) -> Script:
    """MODEL-2 and MODEL-7: what the adapter adds to a module is what the merged checkpoint adds."""
    fact = told.fact
    if not isinstance(fact, Added):
        raise CannotWrite("it was stored by an older release, in words alone; replay it")
    if fact.part == ROWS or told.place.module == LOGITS:
        raise CannotWrite("an embedding's or a head's numbers have no form as a single file yet; replay the case")
    if told.case.tp_size > 1 and fact.part in EXPERTS:
        raise CannotWrite("experts on several ranks have no form as a single file yet; replay the case")
    served = ['model, worker = served(f"{folder}/base")', 'other, _ = served(f"{folder}/merged")', *_added(told)]
    modules = "layer, right = (one.get_submodule(name) for one in (model, other))"
    named = [f'name = "{told.place.module}"', modules]
    if fact.part not in (OUTPUT, "weight", *EXPERTS):
        before = f"before = layer.{fact.part}.clone()"
        each = f"added, merged = (one.{fact.part} - before for one in (layer, right))"
        return _compared(told, [*served, *named, before, _add(told)], [each])
    if told.anomaly == VANISHED and told.case.tp_size > 1:
        got = [*served, _add(told), named[0], "layer = model.get_submodule(name)"]
        got.append('got = any(b.any() for b in getattr(layer, "lora_b_stacked", ()))')
        verdict = ["assert all(outputs)  # on every rank the module got something of the adapter"]
        return _script(told, [one for one in got if "other" not in one], returns="got", verdict=verdict)
    if told.anomaly == VANISHED:
        named.append("assert isinstance(layer, BaseLayerWithLoRA)  # or no adapter reaches it")
    part = "weight" if fact.part == OUTPUT else fact.part
    merged = f"merged = right.base_layer.{part} - layer.base_layer.{part}"
    if fact.part in EXPERTS:
        return _compared(told, [*served, _add(told)], [*named, merged, *_experts(fact.part)])
    factors = "[(a[0, 0], b[0, 0]) for a, b in zip(layer.lora_a_stacked, layer.lora_b_stacked, strict=True)]"
    if told.case.fully_sharded and told.case.tp_size > 1:
        return _gathered(told, [*served, _add(told)], [*named, merged, f"slots = {factors}"])
    pairs = "slots = zip(layer.lora_a_stacked, layer.lora_b_stacked, strict=True)"
    added = "added = torch.cat([b[0, 0] @ a[0, 0] for a, b in slots]).view_as(merged)"
    return _compared(told, [*served, _add(told)], [*named, merged, pairs, added])


def _compared(told: Told, lines: list[str], added: list[str]) -> Script:
    """An output has the rows of its weight last."""
    turned = ".T" if told.fact.part == OUTPUT else ""
    if told.case.tp_size == 1:
        verdict = f"assert added{turned}.tolist() == merged{turned}.tolist()"
        return _script(told, [*lines, *added, verdict], merged=True)
    returns = f"added{turned}.tolist(), merged{turned}.tolist()"
    verdicts = ["added, merged = zip(*outputs, strict=True)  # by rank", "assert added == merged"]
    return _script(told, [*lines, *added], merged=True, returns=returns, verdict=verdicts)


def _gathered(told: Told, lines: list[str], slots: list[str]) -> Script:
    """Fully sharded layers cut one factor by rank: the other ranks' parts belong to it."""
    turned = ".T" if told.fact.part == OUTPUT else ""
    each = f"whole(slots, rank, len(one)){turned}.tolist() for rank, one in enumerate(merged)"
    verdict = [
        "slots, merged = zip(*outputs, strict=True)  # by rank",
        f"added = [{each}]",
        f"assert added == [one{turned}.tolist() for one in merged]",
    ]
    lines = [*lines, *slots]
    return _script(told, lines, merged=True, returns="slots, merged", verdict=verdict, definitions=[ADDED])


def _experts(part: str) -> list[str]:
    which = part.removesuffix("_weight")
    pairs = f"slots = zip(layer.{which}_lora_a_stacked, layer.{which}_lora_b_stacked, strict=True)"
    return [pairs, 'added = torch.cat([torch.einsum("eor,eri->eoi", b[0], a[0]) for a, b in slots], 1)']


def _last(key: str) -> str:
    """The last part of the name of a key's module."""
    module = re.sub(r"\.lora_(embedding_)?[AB](\.weight)?$", "", key)
    return module.removesuffix(".base_layer").rpartition(".")[2]


_BY_CLAUSE: dict[str, Callable[[Told], Script]] = {
    "MODEL-1": _arrives,
    "MODEL-2": _merged,
    "MODEL-7": _merged,
}
