"""A counterexample as a test to copy: it runs the clause on the one case, wherever the class may go from there."""

from __future__ import annotations

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
from conformance.test_files.layout import laid_out, whole_file
from lora_compat.families import Family
from strategies.codec import Named, Spec


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
    name = f"test_{failure.clause}_{failure.anomaly}".lower().replace("-", "_")
    on = f'impl="{outcome.impl}"' + (', layers="vllm"' if outcome.on_vllms_layers else "")
    lines = [f"def {name}():", f"    case = {failure.shown}", f'    assert_clause("{failure.clause}", case, {on})']
    words: tuple[type, ...] = (*Spec.__subclasses__(), *Named.__subclasses__(), Family)
    homes = {cls.__name__: cls.__module__ for cls in words} | {"assert_clause": __name__}
    docstring = f'"""{told}\n\n{seen}\n"""'.replace("\\", "/")
    return laid_out([whole_file(docstring, (), homes, "\n".join(lines))], width=100)[0]
