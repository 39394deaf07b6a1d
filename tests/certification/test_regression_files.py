"""What fails in a certification run leaves a test that fails of it, and is kept for `lora-compat replay`."""

from __future__ import annotations

from pathlib import Path

import pytest

from conformance.regressions.fresh import run_module
from tests.certification.screens import SUBJECTS, lora_compat
from tests.suite import ROOT, SECONDS, outside_of_pytest

ADDITIVE = ("--impl", "tests.certification.additive:Additive", "--max-examples", "6")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the failures of a class are."""
    written = tmp_path_factory.mktemp("regressions")
    options = ("--write-regressions", str(written))
    code, screen = lora_compat("certify", f"{SUBJECTS}.scaled:ScaledLinear", *ADDITIVE, *options)
    assert code == 1
    files = {path.name for path in written.glob("*.py")}
    assert files
    assert all(name in screen for name in files)
    return written


def test_each_written_test_fails_for_the_reason_it_was_written_for(directory: Path) -> None:
    (path, *_) = sorted(directory.glob("test_math_1_*.py"))
    command = ["pytest", str(path), "-q", "-c", "/dev/null", "-p", "no:cacheprovider"]
    done = run_module(command, ROOT, outside_of_pytest(), SECONDS)
    assert done.code == 1, done.output
    assert path.stem.rpartition("_")[0].removeprefix("test_math_1_").replace("_", "-") in done.stdout


def test_the_stored_failures_can_be_replayed(directory: Path) -> None:
    code, screen = lora_compat("replay", str(directory))
    assert code == 1
    assert "STILL FAILS" in screen
    assert "ERROR" not in screen


def test_a_test_that_was_edited_is_left_alone(directory: Path) -> None:
    edited = {path: path.read_text(encoding="utf-8") + "# mine\n" for path in directory.glob("*.py")}
    for path, text in edited.items():
        path.write_text(text, encoding="utf-8")
    options = ("--write-regressions", str(directory))
    _, screen = lora_compat("certify", f"{SUBJECTS}.scaled:ScaledLinear", *ADDITIVE, *options)
    assert "left alone" in screen
    assert all(path.read_text(encoding="utf-8") == text for path, text in edited.items())


def test_a_class_that_several_ranks_refuse_is_not_certified() -> None:
    subject = f"{SUBJECTS}.own_loaders:BoundByItsOwnRuleLinear"
    code, screen = lora_compat("certify", subject, "--max-examples", "8")
    assert code == 1
    assert "MATH-6    MUST    refused" in screen
    assert "so how many rows the checkpoint has cannot be known" in " ".join(screen.split())
