"""Tests of whole models, for plain transformers, PEFT and vLLM: checkpoint and adapter are made, saved, and loaded.

Ranks run in turn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from conformance.implementations.models import HELD
from conformance.judging.facts import Raised, Sighting
from conformance.judging.model_facts import Added, Lost
from conformance.regressions.entries import StoredFailure
from conformance.test_files.dialects import Dialect
from conformance.test_files.layout import CannotWrite
from conformance.test_files.model_chains import CUT, CheckpointText
from conformance.test_files.model_configs import config_text, made_by_transformers
from conformance.test_files.model_deltas import merged, restricted
from conformance.test_files.model_histories import reloaded, started, switched_on, written
from conformance.test_files.model_parts import apart, featured
from conformance.test_files.model_scenes import (
    BASE,
    COPIED,
    Told,
    added_or_refused,
    adding,
    last_name,
    requested,
    scripted,
    targets_of,
)
from conformance.test_files.model_skeletons import SkeletonText, skeleton_text
from conformance.test_files.script import Script
from strategies.models.cases import ModelCase

_REST = "save_file({key: one for key, one in tensors.items() if not key.startswith(LOST)}, file)"


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
    checkpoint = _checkpoint(case, sighting)
    if isinstance(checkpoint, SkeletonText):
        case = replace(case, adapter=checkpoint.of_these(case.adapter))
    return body(Told(case, failure.anomaly, sighting.fact, sighting.place, checkpoint, fused))


def _checkpoint(case: ModelCase, sighting: Sighting) -> CheckpointText:
    """As transformers makes it, where it does; otherwise of the modules that matter, whose keys were loaded alone."""
    if made_by_transformers(case):
        return config_text(case)
    fact = sighting.fact
    alone = fact.keys if isinstance(fact, Lost) and not fact.among_others else ()
    held = (fact.tensor,) if isinstance(fact, Added) and fact.part.startswith(HELD) else ()
    return skeleton_text(case, " ".join((sighting.place.setting, *alone, *held)))


def _arrives(told: Told) -> Script:
    """MODEL-1: the tensors are in the slots of some layer, or are refused by name."""
    if isinstance(told.fact, Raised):
        return _loads(told)
    fact = told.fact
    if not isinstance(fact, Lost):
        raise CannotWrite("it was stored by an older release, in words alone; replay it")
    before, told = fact.keys[0].rpartition(".lora_")[0], replace(told, exact=False)
    lines = [BASE, *added_or_refused(told, [last_name(fact.keys[0])])]
    lines.append("layers = [vars(one) for one in worker._adapter_manager.modules.values()]")
    # Those of experts have longer names.
    lines.append('slots = [b for one in layers for key in one if "lora_b" in key for b in one[key]]')
    if fact.among_others:
        lines += _whole_and_rest(told)
        got, note = "any(not torch.equal(*both) for both in zip(*held, strict=True))", "  # it is missed"
        then, definitions = [*COPIED, _REST], [f'LOST = "{before}.lora_"']
    else:
        got, note = "any(b.any() for b in slots)", "  # it arrived"
        whole = fact.whole or isinstance(told.config, SkeletonText)
        then, definitions = ([], []) if whole else (CUT, [f'KEPT = "{before}.lora_"'])
    parts: dict[str, Any] = {"then": then, "definitions": definitions}
    if told.case.tp_size == 1:
        return scripted(told, [*lines, f"assert {got}{note}"], **parts)
    return scripted(told, lines, returns=got, verdict=[f"assert any(outputs){note}"], **parts)


def _whole_and_rest(told: Told) -> list[str]:
    """``held``: what the slots have of the whole file, and of the rest of it."""
    read = "held{} [[b.clone() for b in slots]{}"
    again = ["worker.remove_adapter(1)", *requested(told, "other"), adding(told, "other")]
    return [read.format(" =", "]"), *again, read.format(" +=", "]")]


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
