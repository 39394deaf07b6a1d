"""The writer: a stored failure as a pytest file that stands on its own."""

from __future__ import annotations

import textwrap
import threading
from collections.abc import Mapping

from conformance.contract import CONTRACT
from conformance.regressions.entries import Entry, StoredFailure
from conformance.test_files import (
    chain_files,
    experts_files,
    foreign_files,
    layer_files,
    model_files,
    questions,
    target_files,
    vocabulary_files,
)
from conformance.test_files.dialects import CannotWrite, Dialect
from conformance.test_files.literals import compactly
from conformance.test_files.lora_compat_dialect import LoraCompat
from conformance.test_files.scenes import LAYER_CLAUSES, scene_of
from conformance.test_files.vllm_dialect import Vllm
from strategies.cases import Case
from strategies.experts import ExpertsCase
from strategies.programs import Program
from strategies.ranks import RankQuestion
from strategies.target_questions import TargetQuestion
from strategies.vocabulary import VocabularyCase

MOST_LINES = 80  # of a file that a reviewer reads; a case that could not be shrunk may take more
DIALECTS: tuple[Dialect, ...] = (LoraCompat(), Vllm())
# The oracle's engine serves one case at a time.
_one_at_a_time = threading.Lock()


def file_name(entry: Entry, failure: StoredFailure, dialect: Dialect) -> str:
    """``test_<clause>_<short hash>.py``, with ``_vllm`` where it is for plain vLLM."""
    clause = failure.clause.lower().replace("-", "_")
    return f"test_{clause}_{entry.id[:8]}{dialect.suffix}.py"


def write(entry: Entry, failure: StoredFailure, dialect: Dialect, proof: str) -> str:
    """The text of the file.

    Raises:
        CannotWrite: there is no such file for this clause, or for this library.
    """
    if not failure.seen:
        raise CannotWrite("an older release stored it, in words alone; replay it on a run of this one")
    with _one_at_a_time:
        text = _written(entry, failure, dialect, proof)
        if text.count("\n") < MOST_LINES:
            return text
        with compactly():
            return _written(entry, failure, dialect, proof)


def _written(entry: Entry, failure: StoredFailure, dialect: Dialect, proof: str) -> str:
    case = entry.spec()
    told = _docstring(entry, failure, proof)
    if isinstance(case, RankQuestion):
        return questions.write(failure.clause, case, dialect, told)
    if isinstance(case, Program):
        return model_files.write(failure, case, dialect, told)
    if isinstance(case, TargetQuestion):
        return target_files.write(failure, case, dialect, told)
    if isinstance(case, VocabularyCase):
        return vocabulary_files.write(failure, case, dialect, told)
    if isinstance(case, ExpertsCase):
        return experts_files.write(failure, case, dialect, told)
    if isinstance(case, Case) and failure.clause == "UNWRAP-4":
        return chain_files.write(failure, case, dialect, told)
    if isinstance(case, Case) and failure.clause == "WRAP-6":
        return foreign_files.write(failure, case, dialect, told)
    if failure.anomaly == "base-misquantized":
        raise CannotWrite("it is the base layer's kernel, without an adapter, that is wrong; replay the case")
    if not isinstance(case, Case) or failure.clause not in LAYER_CLAUSES:
        raise CannotWrite(f"{failure.clause} has no form as a single file yet; replay the case")
    scene = scene_of(failure.clause, failure.anomaly, case, failure.sighting.fact)
    reason = dialect.reason_against(scene)
    if reason is not None:
        raise CannotWrite(reason)
    return layer_files.write(scene, dialect, told)


def _docstring(entry: Entry, failure: StoredFailure, proof: str) -> str:
    clause = CONTRACT[failure.clause]
    identity: Mapping[str, str] = failure.identity
    versions = ", ".join([identity.get("implementation", failure.impl), f"torch {identity.get('torch', 'unknown')}"])
    matters = ", ".join(failure.indifferent)
    paragraphs = [
        f"Seen, {failure.anomaly}: {failure.message.splitlines()[0]}",
        f"Found on {versions}." + (f" What does not matter: {matters}." if matters else "") + f" Proof: {proof}",
        f"Case {entry.id}",
    ]
    text = "\n".join(textwrap.fill(" ".join(one.split()), 88) for one in paragraphs)
    head = textwrap.fill(f"{failure.clause} {clause.level.value} {clause.sentence}", 85)
    return f'"""{head}\n\n{text}\n"""'.replace("\\", "/")
