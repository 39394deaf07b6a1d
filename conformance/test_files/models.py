"""Tests of whole models, for plain transformers, PEFT and vLLM: checkpoint and adapter are made, saved, and loaded.

Ranks run in turn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from conformance.judging.facts import Raised
from conformance.judging.model_facts import Lost
from conformance.regressions.entries import StoredFailure
from conformance.test_files.dialects import Dialect
from conformance.test_files.layout import CannotWrite
from conformance.test_files.model_configs import config_text
from conformance.test_files.model_deltas import merged, restricted
from conformance.test_files.model_histories import reloaded, started, switched_on, written
from conformance.test_files.model_parts import apart, featured
from conformance.test_files.model_scenes import (
    BASE,
    Told,
    added_or_refused,
    last_name,
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
    lines = [BASE, *added_or_refused(told, [last_name(told.fact.keys[0])])]
    lines.append("layers = worker._adapter_manager.modules.values()")
    got = "any(b.any() for one in layers for b in one.lora_b_stacked)"
    note = "  # it arrived"
    before = told.fact.keys[0].rpartition(".lora_")[0]
    kept = [] if told.fact.whole else [f'KEPT = "{before}.lora_"']
    told, cut = replace(told, exact=False), bool(kept)
    if told.case.tp_size == 1:
        return scripted(told, [*lines, f"assert {got}{note}"], cut=cut, definitions=kept)
    return scripted(told, lines, cut=cut, definitions=kept, returns=got, verdict=[f"assert any(outputs){note}"])


def _loads(told: Told) -> Script:
    """MODEL-1: the adapter is loaded, or refused by name."""
    names = targets_of(told.case.adapter)
    lines = [BASE, *added_or_refused(told, names)]
    return scripted(replace(told, exact=False), lines)


_BY_CLAUSE: dict[str, Callable[[Told], Script]] = {
    "MODEL-1": _arrives,
    "MODEL-2": merged,
    "MODEL-3": written,
    "MODEL-4": switched_on,
    "MODEL-5": reloaded,
    "MODEL-6": started,
    "MODEL-7": merged,
    "MODEL-9": featured,
    "MODEL-10": apart,
    "MODEL-11": restricted,
}
