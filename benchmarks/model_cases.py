"""How fast drawn models are judged: ``python -m benchmarks.model_cases llama qwen3_moe``.

Seconds are those of the processor, so that whoever shares it does not count; imports are told by themselves.
"""

from __future__ import annotations

import argparse
import time

import torch

from conformance.certification.clause_tests import checks_of
from conformance.certification.models import draws_of
from conformance.contract import MODEL_CLAUSES
from conformance.engines.threads import ThreadsEngine
from conformance.implementations.vllm import VllmImplementation
from conformance.subjects.models.types import resolve
from conformance.subjects.subject import Subject
from conformance.suite.budget import Budget
from conformance.suite.checking import ClauseRun


def measure(subject: Subject, name: str, examples: int) -> tuple[int, float]:
    """Cases of all clauses on one type, and the seconds that they took."""
    served = subject.implementation.dtypes(subject.device)
    draws = draws_of(name, resolve(name), served)
    started, cases = time.process_time(), 0
    for clause in MODEL_CLAUSES:
        for test in checks_of(clause):
            run = ClauseRun(subject, Budget(examples, 0), draws)
            cases += run.check(clause, test.body.__name__, test.strategy, test.body).cases
    return cases, time.process_time() - started


def main() -> None:
    """Prints a line for each type."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("types", nargs="*", default=["llama", "qwen3_moe", "gemma3"])
    parser.add_argument("--max-examples", type=int, default=20, help="cases a clause (default: 20)")
    given = parser.parse_args()
    torch.set_grad_enabled(False)
    implementation = VllmImplementation()
    implementation.layers.prepare()
    implementation.models.prepare()
    subject = Subject(implementation, ThreadsEngine())
    print(f"imports: {time.process_time():.1f} s")
    measure(subject, given.types[0], 1)  # what the first load still sets up
    for name in given.types:
        cases, seconds = measure(subject, name, given.max_examples)
        print(f"{name}: {cases} cases in {seconds:.1f} s, {cases / seconds:.1f} a second and core")


if __name__ == "__main__":
    main()
