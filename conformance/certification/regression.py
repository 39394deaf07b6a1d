"""A counterexample as a test to copy: it runs the clause on the one case, wherever the class may go from there."""

from __future__ import annotations

import dataclasses
import enum
import re
import textwrap
from collections.abc import Iterator

import torch

from conformance.certification.clause_tests import bodies_of
from conformance.certification.outcome import Outcome
from conformance.contract import CONTRACT
from conformance.engines.threads import ThreadsEngine
from conformance.implementations.discovery import implementation_named
from conformance.judging.verdicts import Failure
from conformance.regressions.entries import Entry
from conformance.search.bodies import judges
from conformance.subjects.subject import Subject
from conformance.test_files.layout import laid_out
from strategies.codec import Spec


def assert_clause(clause: str, case: Spec, *, impl: str = "reference", layers: str = "lora_compat") -> None:
    """Runs every check of ``clause`` on ``case``, as ``--impl`` and ``--layers`` would.

    Raises:
        Violation: the clause is broken; the message names the anomaly and the element.
        NotWrapped, SubjectRefused: the implementation does not serve the case.
    """
    subject = Subject(implementation_named(impl, layers), ThreadsEngine())
    with torch.no_grad():
        for body in bodies_of(clause):
            if judges(body, case):
                body(subject, case)


def regression_test(failure: Failure, outcome: Outcome) -> str:
    """The source of a pytest file with the failing case, and what was seen."""
    clause = CONTRACT[failure.clause]
    told = textwrap.fill(f"{failure.clause} {clause.level.value} {clause.sentence}", 100)
    seen = textwrap.fill(f"Seen, {failure.anomaly}: {' '.join(failure.message.split())}", 100)
    lines = [f'"""{told}', "", f'{seen}\n"""'.replace("\\", "/"), ""]
    lines.append("from conformance.certification.regression import assert_clause")
    lines += [*_imports(failure), "", ""]
    name = f"test_{failure.clause}_{failure.anomaly}".lower().replace("-", "_")
    on = f'impl="{outcome.impl}"' + (', layers="vllm"' if outcome.on_vllms_layers else "")
    lines += [f"def {name}():", f"    case = {failure.shown}", f'    assert_clause("{failure.clause}", case, {on})']
    (text,) = laid_out(["\n".join(lines) + "\n"], width=100)
    return text


def _imports(failure: Failure) -> list[str]:
    """Where the words of its case come from."""
    homes: dict[str, set[str]] = {}
    for cls in _words(Entry(failure.case, failure.shown, ()).spec()):
        if re.search(rf"\b{cls.__name__}[(.]", failure.shown):
            homes.setdefault(cls.__module__, set()).add(cls.__name__)
    return [f"from {home} import {', '.join(sorted(words))}" for home, words in sorted(homes.items())]


def _words(value: object) -> Iterator[type]:
    """The dataclasses and enumerations that ``value`` is made of."""
    if isinstance(value, enum.Enum):
        yield type(value)
    elif isinstance(value, (tuple, frozenset)):
        for one in value:
            yield from _words(one)
    elif dataclasses.is_dataclass(value):
        yield type(value)
        for one in dataclasses.fields(value):
            yield from _words(getattr(value, one.name))
