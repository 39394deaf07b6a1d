"""Every kept file for plain vLLM fails on the release it came from.

It does so for the reason that is stored with it. The files beside them, for
lora_compat, are collected like any test, and pass.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from conformance.regressions.entries import StoredFailure
from conformance.regressions.proof import run_file, same_reason
from conformance.regressions.store import Store

HERE = Path(__file__).parent
MATRIX = Path(os.environ.get("VLLM_MATRIX", HERE.parent.parent / ".matrix"))
FILES = sorted(HERE.glob("vllm_*/*_vllm.py"))
# A release on which the bug is gone, where there is one.
FIXED_IN = {
    "test_life_1_1dc87df9_vllm.py": "0.33.0",  # vllm #47724
    "test_math_1_01fd5aac_vllm.py": "0.33.0",  # vllm #45691
    "test_math_1_fc0521f1_vllm.py": "0.33.0",  # at rank 1: no error
    "test_math_3_7b6c6c11_vllm.py": "0.33.0",
    "test_unwrap_1_6a4d6553_vllm.py": "0.32.0",
}


def python_of(path: Path, release: str) -> str:
    if path.name.startswith("test_model_"):
        return sys.executable  # which has PEFT, and the release that they came from
    python = MATRIX / release / "bin" / "python"
    assert python.exists(), (
        f"no environment with vLLM {release} at {python}: run `make matrix` first"
    )
    return str(python)


def release_of(path: Path) -> str:
    return path.parent.name.removeprefix("vllm_").replace("_", ".")


def failure_of(path: Path) -> StoredFailure:
    entries, problems = Store(path.parent).load()
    assert problems == []
    return next(
        one for entry in entries for one in entry.failures if path.name in one.files
    )


def test_four_releases_are_kept() -> None:
    assert {release_of(path) for path in FILES} == {
        "0.19.1",
        "0.20.0",
        "0.32.0",
        "0.33.0",
    }


@pytest.mark.vllm
@pytest.mark.parametrize(
    "path", FILES, ids=lambda path: f"{release_of(path)} {path.stem}"
)
def test_it_is_red_where_it_came_from(path: Path) -> None:
    run = run_file(path, python_of(path, release_of(path)))
    assert run.code == 1, run.output
    assert same_reason(run, failure_of(path)), run.output


@pytest.mark.vllm
@pytest.mark.parametrize(
    "path",
    [path for path in FILES if path.name in FIXED_IN],
    ids=lambda path: path.stem,
)
def test_it_is_green_where_the_bug_is_gone(path: Path) -> None:
    run = run_file(path, python_of(path, FIXED_IN[path.name]))
    assert run.code == 0, run.output
