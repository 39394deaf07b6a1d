"""The regression files of a certification run: each failure as a test that can be committed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from conformance.certification.outcome import Outcome
from conformance.certification.regression import regression_test
from conformance.judging.verdicts import Failure
from conformance.regressions.entries import case_id
from conformance.regressions.store import Store, replace_file
from conformance.suite.regression_files import hand_over
from conformance.test_files.vllm_dialect import Vllm


def write_files(outcomes: Sequence[Outcome], directory: Path, *, prove: bool = False) -> Iterator[str]:
    """Writes a file for each failure, puts its name into `Failure.files`, and says which were left alone.

    Of a model's failure the file is for plain vLLM, proved if asked, wherever the case was stored and has such a form.
    """
    models = [outcome for outcome in outcomes if outcome.model]
    if models:  # all at once, as the formatter is called once, and the store is read once
        failures = [failure for outcome in models for failure in outcome.failures]
        handed = hand_over(failures, Store(directory), models[0].impl, prove=prove)
        yield from (str(one) for one in handed if one.path.name.endswith(Vllm.suffix + ".py"))
    for outcome in outcomes:
        for failure in (one for one in outcome.failures if not one.files):
            path = directory / _name(failure)
            failure.files.append(path.name)
            text = regression_test(failure, outcome)
            if not path.exists():
                directory.mkdir(parents=True, exist_ok=True)
                replace_file(path, text)
            elif path.read_text(encoding="utf-8") != text:
                yield f"left alone {path}: it was edited by hand, or is of another release"


def _name(failure: Failure) -> str:
    stem = f"test_{failure.clause}_{failure.anomaly}_{case_id(failure.case)[:8]}"
    return f"{stem.lower().replace('-', '_')}.py"
