"""Whether every simplification of drawn cases is one that the reference serves rightly.

    python -m benchmarks.steps [--steps 100000] [--seed 0]

Of each test of the suite cases are drawn, and every simplification step of every one is judged by the test itself: a
step that the reference fails, or that cannot be run, would turn a true finding into a false one.
"""

from __future__ import annotations

import argparse
import random
import time
from collections import Counter
from collections.abc import Iterator

import torch
from hypothesis import Phase

from benchmarks.power.hunting import ClauseTest, reference_subject, suite_tests
from conformance.search.bodies import violation_of
from conformance.search.drawing import draw_cases
from conformance.search.settling import plainer
from conformance.subjects.outcomes import HarnessError, NotApplicable
from conformance.subjects.subject import Subject
from strategies.codec import Spec


def drawn(test: ClauseTest, *, cases: int, seed: int) -> list[Spec]:
    """So many cases of a test."""
    found: list[Spec] = []
    draw_cases(test.strategy, found.append, examples=cases, seed=seed, phases=(Phase.generate,))
    return found


def steps_of(case: Spec, most: int, seed: int) -> list[Spec]:
    """The simplification steps of a case; where there are more than ``most``, so many of them."""
    steps = list(plainer(case))
    return steps if len(steps) <= most else random.Random(seed).sample(steps, most)


def fault_of(test: ClauseTest, subject: Subject, step: Spec) -> str:
    """What is wrong with a step, in words; empty where the reference serves it rightly."""
    try:
        found = violation_of(subject, test.body, step)
    except NotApplicable:
        return ""
    except HarnessError as error:
        return f"{test.clause} {test.name}: cannot be run: {error}: {step!r}"
    return f"{test.clause} {test.name}: {found}" if found else ""


def faults(tests: tuple[ClauseTest, ...], *, cases: int, most: int, seed: int, judged: Counter[str]) -> Iterator[str]:
    """What is wrong with the steps of ``cases`` cases of each test; ``judged`` counts them by clause."""
    subject = reference_subject()
    for test in tests:
        for case in drawn(test, cases=cases, seed=seed):
            for step in steps_of(case, most, seed):
                judged[test.clause] += 1
                fault = fault_of(test, subject, step)
                if fault:
                    yield fault


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--most", type=int, default=10_000, help="steps of one case")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    judged: Counter[str] = Counter()
    seed, found, started = arguments.seed, 0, time.perf_counter()
    while judged.total() < arguments.steps:
        for fault in faults(suite_tests(), cases=2, most=arguments.most, seed=seed, judged=judged):
            found += 1
            print(fault, flush=True)
        seed += 1
    print(f"{judged.total()} steps in {time.perf_counter() - started:.0f} s, {found} wrong", dict(judged))
    raise SystemExit(1 if found else 0)


if __name__ == "__main__":
    main()
