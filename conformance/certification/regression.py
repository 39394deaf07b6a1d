"""A counterexample as a test to copy: it runs the clause on the one case, wherever the class may go from there."""

from __future__ import annotations

import importlib
import re
import textwrap

import torch

from conformance.certification.clause_tests import bodies_of
from conformance.certification.outcome import Outcome
from conformance.contract import CONTRACT
from conformance.engines.threads import ThreadsEngine
from conformance.implementations.discovery import implementation_named
from conformance.judging.verdicts import Failure
from conformance.search.bodies import judges
from conformance.subjects.subject import Subject
from conformance.test_files.layout import laid_out
from strategies.codec import Spec

_VOCABULARY = (
    "strategies.cases",
    "strategies.models.configs",
    "strategies.models.adapters",
    "strategies.models.cases",
)


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
    names = sorted(set(re.findall(r"\b([A-Z]\w+)\(|\b([A-Z]\w+)\.", failure.shown)))
    used = sorted({one or other for one, other in names} - {"Family"})
    told = textwrap.fill(f"{failure.clause} {clause.level.value} {clause.sentence}", 100)
    seen = textwrap.fill(f"Seen, {failure.anomaly}: {' '.join(failure.message.split())}", 100)
    lines = [f'"""{told}', "", f'{seen}\n"""'.replace("\\", "/"), ""]
    lines.append("from conformance.certification.regression import assert_clause")
    if "Family." in failure.shown:
        lines.append("from lora_compat.families import Family")
    lines += [*_imports(used), "", ""]
    name = f"test_{failure.clause}_{failure.anomaly}".lower().replace("-", "_")
    on = f'impl="{outcome.impl}"' + (', layers="vllm"' if outcome.on_vllms_layers else "")
    lines += [f"def {name}():", f"    case = {failure.shown}", f'    assert_clause("{failure.clause}", case, {on})']
    (text,) = laid_out(["\n".join(lines) + "\n"], width=100)
    return text


def _imports(names: list[str]) -> list[str]:
    """Where the words of a case come from."""
    homes: dict[str, list[str]] = {}
    for name in names:
        home = next(module for module in _VOCABULARY if hasattr(importlib.import_module(module), name))
        homes.setdefault(home, []).append(name)
    return [f"from {home} import {', '.join(words)}" for home, words in sorted(homes.items())]
