"""The suite inside a job of torchrun: the same verdicts, and an end where a rank dies or hangs."""

from __future__ import annotations

from tests import forks
from tests.suite import launcher, run, run_suite, shown


def test_a_job_of_two_ranks_judges_the_cases_of_its_size() -> None:
    result = run_suite("--engine", "torchrun", "--profile", "quick", select="test_collectives.py", torchrun=2)
    text = shown(result)
    assert result.code == 0, text
    assert text.count("MUST    pass") == 2
    assert text.count("conformant: 40 cases") == 1, "of all ranks one reports"


def test_a_rank_that_dies_is_named_with_its_case_and_ends_the_run() -> None:
    arguments = ("--engine", "torchrun", "--impl", "tests.implementations.broken:LosesARank", "--profile", "quick")
    result = run_suite(*arguments, select="test_unwrapping.py", torchrun=2)
    text = shown(result)
    assert result.code == 1, text
    assert "UNWRAP-2  MUST    error" in text
    assert "the process of rank 1 of 2 died; a job of torchrun does not replace it, in Case(" in text
    assert "UNWRAP-1  MUST    pass" in text, "what was found before is kept"
    assert "UNWRAP-4" not in text, "nothing is run any more"


def test_a_rank_that_hangs_is_named_and_the_job_ends() -> None:
    result = run([*launcher(2), *forks.PYTHON, "tests.engines.hanging_job"])
    assert "ranks [1] of 2 neither ended nor reached a collective within 0.5 s; rank 0 waits in all_reduce" in (
        result.stdout
    ), result.stderr
