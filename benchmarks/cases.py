"""Where the time of a case goes: drawing, building and running on the implementation, the oracle, judging.

    python -m benchmarks.cases [--impl reference|vllm] [--layers lora_compat|vllm] [--cases 1000] [--json FILE]

One core, one process. Every share is measured in the same run; "drawing" is what Hypothesis spends outside the body.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import resource
import time
from collections import Counter
from pathlib import Path

import torch
from hypothesis import HealthCheck, Phase, given, seed, settings

from conformance.engines.threads import ThreadsEngine
from conformance.judging.assertions import assert_outputs
from conformance.oracles.linear import expected_of
from conformance.search.drawing import BACKEND
from conformance.subjects.building import flatten
from conformance.subjects.outcomes import NotWrapped, SubjectRefused
from conformance.subjects.subject import Subject
from strategies.cases import Case
from strategies.drawing import cases


def subject_of(impl: str, layers: str) -> Subject:
    """The subject, prepared."""
    if impl == "vllm":
        from conformance.implementations.vllm import VllmImplementation

        implementation = VllmImplementation()
    else:
        from conformance.implementations.reference import LoraCompatLayers, ReferenceImplementation

        library = LoraCompatLayers()
        if layers == "vllm":
            from conformance.implementations.vllm.layers import VllmLayers

            library = VllmLayers()
        implementation = ReferenceImplementation(library)
    implementation.layers.prepare()
    return Subject(implementation, ThreadsEngine())


def measure(subject: Subject, tp_size: int, count: int) -> dict[str, float]:
    """Cases a second at one TP size, and the microseconds a case spends in each part."""
    spent: Counter[str] = Counter()
    ran = 0

    @seed(tp_size)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=(Phase.generate,),
        backend=BACKEND,
        suppress_health_check=list(HealthCheck),
    )
    @given(cases(tp_sizes=(tp_size,)))
    def body(case: Case) -> None:
        nonlocal ran
        ran += 1
        started = time.perf_counter()
        try:
            outputs = subject.observe(case, lambda rank: flatten(rank.build().wrap().load().run()))
        except (NotWrapped, SubjectRefused):
            return
        finally:
            spent["building and running"] += time.perf_counter() - started
        started = time.perf_counter()
        expected = expected_of(subject, case)
        spent["oracle"] += time.perf_counter() - started
        started = time.perf_counter()
        with contextlib.suppress(AssertionError):
            assert_outputs(case, outputs, expected)
        spent["judging"] += time.perf_counter() - started

    started = time.perf_counter()
    body()
    total = time.perf_counter() - started
    spent["drawing"] = total - sum(spent.values())
    return {"cases/s": ran / total} | {f"{part} µs": seconds / ran * 1e6 for part, seconds in sorted(spent.items())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--impl", default="reference", choices=("reference", "vllm"))
    parser.add_argument("--layers", default="lora_compat", choices=("lora_compat", "vllm"))
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--tp", type=int, nargs="*", default=[1, 2, 4, 8])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    subject = subject_of(arguments.impl, arguments.layers)
    measure(subject, 1, 50)
    gc.collect()
    gc.freeze()  # as the suite does
    rows = {size: measure(subject, size, arguments.cases) for size in arguments.tp}
    names = list(next(iter(rows.values())))
    print("| TP | " + " | ".join(names) + " |\n|" + "---|" * (len(names) + 1))
    for size, row in rows.items():
        print(f"| {size} | " + " | ".join(f"{row[name]:.0f}" for name in names) + " |")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"\npeak memory {peak:.0f} MB; torch {torch.__version__}")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
