"""The screen of a run: short, eighty columns wide, each cause once, and nothing of other libraries."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
from syrupy.assertion import SnapshotAssertion

from conformance.certification.baseline import Baseline
from conformance.judging.verdicts import ClauseResult
from conformance.suite.screen import WIDTH, Ending, Known, conclusion
from tests import forks
from tests.suite import ROOT, outside_of_pytest, run_suite, shown

BROKEN = "tests.implementations.broken"
BASELINE = Path("baselines/vllm-0.33.0.json")
REGRESSIONS = Path(".lora_compat/regressions")


@pytest.fixture(scope="module")
def of_vllm() -> dict[str, ClauseResult]:
    """What a run on vLLM 0.33.0 came to."""
    stored = json.loads(Path(__file__).with_name("vllm-0.33.0.json").read_text(encoding="utf-8"))
    return {clause: ClauseResult.from_dict(one) for clause, one in stored.items()}


def masked(text: str) -> str:
    """Without versions, counts, times, and names of files in passing."""
    text = re.sub(r"(lora_compat|torch|triton|python)( |,?\n {4})[\d.]+\d(\+\w+)?", r"\1 X", text)
    text = re.sub(r"\n.* of .* cases, \d+:\d\d.*", "", text)
    text = re.sub(r"( +\d+){2}( |$)", " <counts>", text, flags=re.MULTILINE)
    text = re.sub(r"[\d,]+ cases, \d+/s", "N cases, N/s", text)
    text = re.sub(r"\bgw\d", "gwN", re.sub(r"/tmp/\S+", "<store>", text))
    return re.sub(r"threading.py:\d+", "threading.py:N", text)


def test_a_run_that_passes_is_one_screen(snapshot: SnapshotAssertion) -> None:
    result = run_suite("--max-examples", "4", "--shards", "2", "--conformance-seed", "2", detail="-q")
    text = shown(result)
    assert result.code == 0
    assert text.count("\n") <= 60
    assert max(map(len, text.splitlines())) <= WIDTH
    assert masked(text) == snapshot


def test_everything_that_fails_on_vllm_is_said_once_in_120_lines(
    of_vllm: dict[str, ClauseResult], snapshot: SnapshotAssertion
) -> None:
    entries = Baseline.read(Path(__file__).with_name("baseline-0.33.0.json")).entries  # of the same run
    links = {(one.clause, one.anomaly): one.link for one in entries}
    lines = list(
        Ending(of_vllm, REGRESSIONS, Known(BASELINE, links), Counter({"proved": 116, "not proved": 3})).lines()
    )
    header_and_progress = 9
    assert len(lines) + header_and_progress <= 120
    assert max(map(len, lines)) <= WIDTH
    assert "\n".join(lines) == snapshot


def test_known_failures_are_one_line_with_their_count(
    of_vllm: dict[str, ClauseResult], snapshot: SnapshotAssertion
) -> None:
    known = frozenset((one.clause, one.anomaly) for result in of_vllm.values() for one in result.failures)
    lines = list(Ending(of_vllm, REGRESSIONS, Known(BASELINE, excused=known)).lines())
    assert len(lines) <= 40
    assert "\n".join(lines) == snapshot


def test_a_cause_that_no_list_has_is_shown_beside_the_known_ones(of_vllm: dict[str, ClauseResult]) -> None:
    failures = [one for result in of_vllm.values() for one in result.failures]
    known = frozenset((one.clause, one.anomaly) for one in failures if one.anomaly != "weight-stolen")
    text = "\n".join(Ending(of_vllm, REGRESSIONS, Known(BASELINE, excused=known)).lines())
    assert "  1 weight-stolen in WRAP-7/8" in text
    assert "  2 " not in text


def test_a_worker_that_dies_is_an_error_on_the_screen(snapshot: SnapshotAssertion) -> None:
    arguments = ("--impl", f"{BROKEN}:KillsItsWorker", "--profile", "quick", "-n", "1")
    result = run_suite(*arguments, select="test_unwrapping.py", detail="-q")
    assert result.code == 1
    assert masked(shown(result)) == snapshot


def test_whoever_interrupts_sees_what_was_found_so_far(tmp_path: Path) -> None:
    command = [*forks.PYTHON, "pytest", "conformance/test_dense_math.py", "-p", "no:cacheprovider"]
    command += ["--impl", f"{BROKEN}:DropsTheBias", "--max-examples", "20", "--write-regressions", str(tmp_path)]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=outside_of_pytest() | {forks.SERVER: forks.address()},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # A shell ignores it for what it runs in the background.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.default_int_handler),
    ) as run:
        assert run.stdout is not None
        seen = next(line for line in run.stdout if " cases, " in line)
        run.send_signal(signal.SIGINT)
        rest = run.stdout.read()
    assert run.returncode == pytest.ExitCode.INTERRUPTED, seen + rest
    assert "interrupted; so far" in rest
    assert "clause   verdict " in rest
    assert "Traceback" not in rest


def test_a_test_file_that_cannot_be_imported_is_shown_with_its_traceback(tmp_path: Path) -> None:
    broken = tmp_path / "test_broken.py"
    broken.write_text("import nothing_of_that_name\n")
    result = run_suite("--max-examples", "1", str(broken), select="test_collectives.py", detail="-q")
    assert result.code != 0
    assert "nothing_of_that_name" in shown(result)


def test_a_clause_that_nothing_exercised_is_neither_a_pass_nor_a_failure() -> None:
    totals = {
        clause: ClauseResult(clause, Counter({counted: 3}))
        for clause, counted in (("MATH-1", "pass"), ("MATH-10", "not exercised"), ("LIFE-1", "not applicable"))
    }
    assert conclusion(totals) == "nothing failed, but MATH-10 not exercised"
    totals["MATH-10"] = ClauseResult("MATH-10", Counter({"pass": 1}))
    assert conclusion(totals) == "conformant"
    totals["MATH-1"].errors.append("the process of rank 1 died")
    assert conclusion(totals) == "not conformant (MATH-1)"


@pytest.mark.parametrize(
    ("link", "shown"),
    [
        ("docs/findings/07_further_outputs_dropped.py", "finding 07"),
        ("docs/findings/peft/12_name.py", "finding 12"),
        ("https://example.org/issues/4711", "https://example.org/issues/4711"),
    ],
)
def test_a_cause_says_where_it_is_reported(link: str, shown: str, of_vllm: dict[str, ClauseResult]) -> None:
    failure = of_vllm["WRAP-7"].failures[0]
    lines = Ending({"WRAP-7": of_vllm["WRAP-7"]}, REGRESSIONS, Known(BASELINE, {failure.key: link})).lines()
    assert shown in "\n".join(lines)
