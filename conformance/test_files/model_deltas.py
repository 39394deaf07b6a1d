"""Tests of what an adapter adds to a module of a model: what the merged checkpoint adds, in number and place.

It is read from the slots of the layer, as the product of the factors in them, so that nothing runs but an embedding or
a head. Fully sharded, a rank's factors are made whole with those of the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from conformance.implementations.models import EXPERTS, HELD, LOGITS, OUTPUT, ROWS
from conformance.judging.anomalies.models import VANISHED
from conformance.judging.facts import Raised
from conformance.judging.model_facts import Added
from conformance.test_files.layout import CannotWrite
from conformance.test_files.model_chains import ADDED
from conformance.test_files.model_scenes import BASE, Told, added_or_refused, adding, requested, scripted, targets_of
from conformance.test_files.script import Script

_SERVED = ['model, worker = served(f"{folder}/base")', 'other, _ = served(f"{folder}/merged")']
_BOTH = "layer, right = (one.get_submodule(name) for one in (model, other))"
_BOTH_LAYOUTS = "enable_mixed_moe_lora_format"  # whose slices lie as the activation wants them
_WRAPPED = "assert isinstance({}, BaseLayerWithLoRA)  # or no adapter reaches it"
_LOGITS = """
def logits(served: Any, size: int, number: int = 0) -> torch.Tensor:
    (model, worker), ids = served, (number,) * size
    worker.set_active_adapters(set(), LoRAMapping(ids, ids, is_prefill=False))
    return model.compute_logits(torch.eye(size))
""".strip("\n")

_IN_TURN = "group.all_reduce = lambda part: part  # ranks run in turn, and a sum follows"
_PLACED = (  # of which each has zeros for the others' parts
    "group.all_gather = lambda part, dim, at=rank: torch.cat([part * (at == one) for one in range({})], dim)"
)


def merged(told: Told) -> Script:
    """MODEL-2 and MODEL-7: what the adapter adds to a module is what the merged checkpoint adds."""
    return _added(told, [*requested(told), adding(told)])


def restricted(told: Told) -> Script:
    """MODEL-11: likewise where LoRA is on some modules alone, or the adapter is refused by name."""
    return _added(told, added_or_refused(told, targets_of(told.case.adapter)))


def _added(told: Told, loading: Sequence[str]) -> Script:
    """``loading`` are the statements that load the adapter."""
    fact = told.fact
    if isinstance(fact, Raised) and told.case.stage is not None:  # of an adapter that the whole model takes
        return scripted(told, [BASE, *loading])
    if not isinstance(fact, Added):
        raise CannotWrite("it was stored by an older release, in words alone; replay it")
    if fact.part.startswith(HELD):
        return _held(told, loading, fact.part.removeprefix(HELD))
    if fact.part == ROWS or told.place.module == LOGITS:
        return _forward(told, loading)
    if fact.part in EXPERTS and _BOTH_LAYOUTS in told.case.options:
        raise CannotWrite("experts in both layouts have no form as a single file yet; replay the case")
    if fact.part in EXPERTS:
        return _of_experts(told, loading, fact.part)
    if fact.part in (OUTPUT, "weight"):
        return _of_a_layer(told, loading, turned=fact.part == OUTPUT)
    before = f"before = layer.{fact.part}.clone()"
    each = f"added, merged = (one.{fact.part} - before for one in (layer, right))"
    return _compared(told, [*_SERVED, *_named(told), before, *loading, each])


def _of_a_layer(told: Told, loading: Sequence[str], *, turned: bool) -> Script:
    """An output has the rows of its weight last."""
    if told.anomaly == VANISHED and told.case.tp_size > 1:
        got = 'got = any(b.any() for b in getattr(layer, "lora_b_stacked", ()))'
        lines = [_SERVED[0], *loading, f'layer = model.get_submodule("{told.place.module}")', got]
        verdict = ["assert all(outputs)  # on every rank the module got something of the adapter"]
        return scripted(told, lines, returns="got", verdict=verdict)
    lines = [*_SERVED, *loading, *_named(told), *_wrapped(told, "layer")]
    lines.append("merged = right.base_layer.weight - layer.base_layer.weight")
    slots = "zip(layer.lora_a_stacked, layer.lora_b_stacked, strict=True)"
    if _cut(told):
        return _gathered(told, [*lines, f"slots = [(a[0, 0], b[0, 0]) for a, b in {slots}]"], turned=turned)
    lines += [f"slots = {slots}", "added = torch.cat([b[0, 0] @ a[0, 0] for a, b in slots]).view_as(merged)"]
    return _compared(told, lines, turned=turned)


def _of_experts(told: Told, loading: Sequence[str], part: str) -> Script:
    """Those that a rank has, or its part of each."""
    around = told.place.module.removesuffix(".routed_experts")
    lines = [*_SERVED, *loading, f'name = "{told.place.module}.{part}"']
    lines += ["merged = other.get_parameter(name) - model.get_parameter(name)"]
    lines += [f'lora = model.get_submodule("{around}")', *_wrapped(told, "lora")]
    which = f"lora.{part.removesuffix('_weight')}_lora"
    if _cut(told):
        lines += [f"{one} = torch.stack([part[0] for part in {which}_{one}_stacked])" for one in "ab"]
        return _of_cut_experts(told, lines, first=part == EXPERTS[0])
    slots = f"slots = zip({which}_a_stacked, {which}_b_stacked, strict=True)"
    return _compared(told, [*lines, slots, "added = torch.cat([b[0] @ a[0] for a, b in slots], 1)"])


def _of_cut_experts(told: Told, lines: list[str], *, first: bool) -> Script:
    """Of the ``first`` product ranks have parts of A, of the second of B."""
    cut, own, product = ("a", "b", "one @ whole") if first else ("b", "a", "whole @ one")
    verdict = [
        "a, b, merged = zip(*outputs, strict=True)  # by rank",
        f"whole = torch.cat({cut}, 2)  # fully sharded, a rank has a part of it",
        f"added = [({product}).transpose(0, 1).flatten(1, 2).tolist() for one in {own}]",
        "assert added == [one.tolist() for one in merged]",
    ]
    return scripted(told, lines, merged=True, returns="(a, b, merged)", verdict=verdict)


def _held(told: Told, loading: Sequence[str], alias: str) -> Script:
    """Who has the module by another name has the LoRA layer that is around it."""
    holder, _, name = alias.rpartition(".")
    lines = [
        _SERVED[0],
        *loading,
        f'path, holder = "{holder}", model',
        'for part in path.split("."):',
        "    holder = getattr(holder, part)",
        '    holder = getattr(holder, "base_layer", holder)',
        f'layer = model.get_submodule("{told.place.module}")',
        "assert isinstance(layer, BaseLayerWithLoRA)",
        f"assert holder.{name} is layer  # or what it calls knows of no adapter",
    ]
    return scripted(replace(told, exact=False), lines)


def _forward(told: Told, loading: Sequence[str]) -> Script:
    """Of an embedding's ids, or of the units that a head multiplies; of several ranks each has some of the ids."""
    several = told.case.tp_size > 1
    if told.place.module == LOGITS:
        lines = [
            *([_PLACED.format(told.case.tp_size)] if several else []),
            'bare, right = served(f"{folder}/base"), served(f"{folder}/merged")',
            "_, worker = bare",
            *loading,
            "size = base.get_output_embeddings().weight.shape[1]",
            "both = logits(bare, size, 1), logits(right, size)",
            "added, merged = (one - logits(bare, size) for one in both)",
        ]
        return _compared(told, lines, definitions=[_LOGITS], summed=several)
    lines = [
        *([_IN_TURN] if several else []),
        *(*_SERVED, *loading, *_named(told), *_wrapped(told, "layer")),
        "tokens = torch.arange(layer.base_layer.org_vocab_size)",
        "ids = (1,) * len(tokens)",
        "worker.set_active_adapters(set(), LoRAMapping(ids, ids, is_prefill=False))",
        "bare = layer.base_layer(tokens)",
        "added, merged = (one(tokens) - bare for one in (layer, right.base_layer))",
    ]
    return _compared(told, lines, summed=several)


def _named(told: Told) -> list[str]:
    return [f'name = "{told.place.module}"', _BOTH]


def _wrapped(told: Told, layer: str) -> list[str]:
    return [_WRAPPED.format(layer)] if told.anomaly == VANISHED else []


def _cut(told: Told) -> bool:
    """Whether ranks have parts of both factors."""
    return told.case.fully_sharded and told.case.tp_size > 1


def _compared(
    told: Told, lines: list[str], *, turned: bool = False, definitions: Sequence[str] = (), summed: bool = False
) -> Script:
    """``summed``: what every rank adds is the sum of what they would have merged."""
    t = ".T" if turned else ""
    if told.case.tp_size == 1:
        verdict = f"assert added{t}.tolist() == merged{t}.tolist()"
        return scripted(told, [*lines, verdict], merged=True, definitions=definitions)
    verdicts = ["added, merged = zip(*outputs, strict=True)  # by rank"]
    if summed:
        verdicts += ["whole = sum(merged)", "assert all(torch.equal(one, whole) for one in added)"]
        return scripted(told, lines, merged=True, returns="(added, merged)", verdict=verdicts, definitions=definitions)
    returns = f"(added{t}.tolist(), merged{t}.tolist())"
    verdicts.append("assert added == merged")
    return scripted(told, lines, merged=True, returns=returns, verdict=verdicts)


def _gathered(told: Told, lines: list[str], *, turned: bool = False) -> Script:
    """Fully sharded layers cut one factor by rank: the other ranks' parts belong to it."""
    t = ".T" if turned else ""
    verdict = [
        "slots, merged = zip(*outputs, strict=True)  # by rank",
        f"added = [whole(slots, rank, len(one)){t}.tolist() for rank, one in enumerate(merged)]",
        f"assert added == [one{t}.tolist() for one in merged]",
    ]
    return scripted(told, lines, merged=True, returns="(slots, merged)", verdict=verdict, definitions=[ADDED])
