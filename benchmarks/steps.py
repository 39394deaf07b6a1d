"""Whether every simplification of drawn cases is one that the reference serves rightly.

    python -m benchmarks.steps [--steps 100000] [--seed 0] [--processes 2] [--device cuda]

Of each test of the suite cases are drawn, and every simplification step of every one is judged by the test itself: a
step that the reference fails, or that cannot be run, would turn a true finding into a false one.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import count, islice

from hypothesis import Phase

from benchmarks.power.hunting import ClauseTest, reference_subject, suite_tests
from benchmarks.power.tasks import single_threaded
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


def faults(
    tests: tuple[ClauseTest, ...], *, cases: int, most: int, seed: int, judged: Counter[str], device: str = "cpu"
) -> Iterator[str]:
    """What is wrong with the steps of ``cases`` cases of each test; ``judged`` counts them by clause."""
    subject = replace(reference_subject(), device=device)
    for test in tests:
        for case in drawn(test, cases=cases, seed=seed):
            for step in steps_of(case, most, seed):
                judged[test.clause] += 1
                fault = fault_of(test, subject, step)
                if fault:
                    yield fault


def judge(task: tuple[int, int], *, most: int, device: str) -> tuple[Counter[str], list[str]]:
    """How many steps of two cases of one test were judged, and what is wrong with any."""
    seed, place = task
    judged: Counter[str] = Counter()
    tests = suite_tests()[place : place + 1]
    return judged, list(faults(tests, cases=2, most=most, seed=seed, judged=judged, device=device))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0, help="the first; as many follow as are needed")
    parser.add_argument("--most", type=int, default=10_000, help="steps of one case")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    total: Counter[str] = Counter()
    found, started = 0, time.perf_counter()
    tasks = ((seed, place) for seed in count(arguments.seed) for place in range(len(suite_tests())))
    rounds = iter(lambda: list(islice(tasks, 4 * len(suite_tests()))), [])
    with multiprocessing.get_context("spawn").Pool(arguments.processes, single_threaded) as pool:
        while total.total() < arguments.steps:
            for judged, wrong in pool.imap_unordered(
                partial(judge, most=arguments.most, device=arguments.device), next(rounds)
            ):
                total += judged
                found += len(wrong)
                print(*wrong, sep="\n", end="\n" * bool(wrong), flush=True)
            print(f"{total.total()} steps in {time.perf_counter() - started:.0f} s, {found} wrong", flush=True)
    print(dict(total))
    raise SystemExit(1 if found else 0)


if __name__ == "__main__":
    main()
