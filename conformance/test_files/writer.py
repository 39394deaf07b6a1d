"""The writer: a stored failure as a pytest file that stands on its own."""

from __future__ import annotations

import importlib
import textwrap
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from conformance.contract import CONTRACT
from conformance.regressions.entries import Entry, StoredFailure
from conformance.test_files import experts, linear, modules, programs, ranks, targets, vocabulary
from conformance.test_files.dialects import Dialect
from conformance.test_files.layout import CannotWrite, laid_out
from conformance.test_files.lora_compat_dialect import LoraCompat
from conformance.test_files.script import Script
from conformance.test_files.vllm_dialect import Vllm
from strategies.cases import Case
from strategies.codec import Spec
from strategies.experts import ExpertsCase
from strategies.libraries import Library
from strategies.models.cases import ModelCase
from strategies.programs import Program
from strategies.ranks import RankQuestion
from strategies.target_questions import TargetQuestion
from strategies.vocabulary import VocabularyCase

UNPROVED = "NOT PROVED"
NOT_RUN = f"{UNPROVED}, it has not been run."
MOST_LINES = 80  # of a file that a reviewer reads; a case that could not be shrunk may take more
MOST_OF_A_MODEL = 100  # lines: its checkpoint is made, too
DIALECTS: tuple[Dialect, ...] = (LoraCompat(), Vllm())
Scripting = Callable[[StoredFailure, Any, Dialect], Script]


def _script_of_a_model(failure: StoredFailure, case: Any, dialect: Dialect) -> Script:
    """`models.script_of`, whose transformers and PEFT take seconds to import."""
    script: Script = importlib.import_module("conformance.test_files.models").script_of(failure, case, dialect)
    return script


_BY_KIND: dict[type[Spec], Scripting] = {
    Case: linear.script_of,
    VocabularyCase: vocabulary.script_of,
    ExpertsCase: experts.script_of,
    Program: programs.script_of,
    TargetQuestion: targets.script_of,
    RankQuestion: ranks.script_of,
    ModelCase: _script_of_a_model,
}
_BY_CLAUSE: dict[tuple[type[Spec], str], Scripting] = {
    (Case, "UNWRAP-4"): modules.chain,
    (Case, "WRAP-6"): modules.stranger,
}
# The oracle's engine serves one case at a time.
_one_at_a_time = threading.Lock()


def file_name(entry: Entry, failure: StoredFailure, dialect: Dialect) -> str:
    """``test_<clause>_<short hash>.py``, with ``_vllm`` where it is for plain vLLM."""
    clause = failure.clause.lower().replace("-", "_")
    return f"test_{clause}_{entry.id[:8]}{dialect.suffix}.py"


File = str | CannotWrite  # its text, or why there is none


def write_all(given: Sequence[tuple[Entry, StoredFailure]]) -> list[tuple[File, ...]]:
    """For each failure a file for each of `DIALECTS`, which nobody has run; ruff lays them all out in one call."""
    drafts = [[_draft(entry, failure, dialect) for dialect in DIALECTS] for entry, failure in given]
    texts = iter(laid_out([one for each in drafts for one in each if isinstance(one, str)]))
    return [tuple(next(texts) if isinstance(one, str) else one for one in each) for each in drafts]


def write(entry: Entry, failure: StoredFailure, dialect: Dialect, proof: str) -> str:
    """One file by itself, with what was proved of it.

    Raises:
        CannotWrite: there is no such file for this clause, or for this library.
    """
    drawn = _draft(entry, failure, dialect)
    if isinstance(drawn, CannotWrite):
        raise drawn
    return proved(laid_out([drawn])[0], entry, failure, proof)


def proved(text: str, entry: Entry, failure: StoredFailure, proof: str) -> str:
    """The file ``text`` with what was proved of it in its docstring."""
    return text.replace(_docstring(entry, failure, NOT_RUN), _docstring(entry, failure, proof), 1)


def _draft(entry: Entry, failure: StoredFailure, dialect: Dialect) -> File:
    """A file that is not laid out yet."""
    if failure.identity.get("layers", "").startswith(Library.TORCH.value):
        return CannotWrite("on torch's layers it has no form as a single file yet; replay the case")
    if not failure.seen:
        return CannotWrite("an older release stored it, in words alone; replay it on a run of this one")
    with _one_at_a_time:
        try:
            return _written(entry, failure, dialect)
        except CannotWrite as error:
            return error


def _written(entry: Entry, failure: StoredFailure, dialect: Dialect) -> str:
    case = entry.spec()
    name = f"test_{failure.clause}_{failure.anomaly}".lower().replace("-", "_")
    script = _BY_CLAUSE.get((type(case), failure.clause)) or _BY_KIND.get(type(case))
    if script is None:
        raise CannotWrite(f"{failure.clause} has no form as a single file yet; replay the case")
    return script(failure, case, dialect).text(name, dialect, _docstring(entry, failure, NOT_RUN))


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
