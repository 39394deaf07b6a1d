"""What fails in a certification run leaves a test that fails of it, and is kept for `lora-compat replay`.

One run of a class that fails, from Python, and a second one, by the command, that knows of its failures.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from conformance.certification.api import NotCertified, certify
from tests.certification.screens import SUBJECTS, lora_compat, masked
from tests.suite import run

SCALED = f"{SUBJECTS}.scaled:ScaledLinear"
IMPL = "tests.certification.additive:Additive"


@dataclass(frozen=True)
class Failed:
    """A run that a class failed: its screen, where its failures are, and the list of them."""

    screen: str
    directory: Path
    baseline: Path


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> Failed:
    """The first run."""
    written, baseline = tmp_path_factory.mktemp("regressions"), tmp_path_factory.mktemp("known") / "known.json"
    options = ["--max-examples", "4", "--write-regressions", str(written), "--baseline", str(baseline)]
    with pytest.raises(NotCertified) as raised:
        certify(SCALED, impl=IMPL, options=[*options, "--update-baseline"])
    assert isinstance(raised.value, AssertionError)
    return Failed(masked(str(raised.value)), written, baseline)


@pytest.fixture(scope="module")
def directory(failed: Failed) -> Path:
    """Where the failures of the class are."""
    return failed.directory


def test_a_scaling_class_is_not_certified_where_the_delta_is_added_after_its_forward(failed: Failed) -> None:
    assert "MATH-1    MUST    fail" in failed.screen
    assert "Its family's base class keeps them" in " ".join(failed.screen.split()), "so this class is to blame"


def test_the_error_has_the_whole_screen_with_every_file_that_was_written(failed: Failed) -> None:
    files = {path.name for path in failed.directory.glob("*.py")}
    assert files
    assert all(name in failed.screen for name in files)


def test_each_written_test_fails_for_the_reason_it_was_written_for(directory: Path) -> None:
    (path, *_) = sorted(directory.glob("test_math_1_*.py"))
    command = ["pytest", str(path), "-q", "-c", "/dev/null", "-p", "no:cacheprovider"]
    done = run(command)
    assert done.code == 1, done.output
    assert path.stem.rpartition("_")[0].removeprefix("test_math_1_").replace("_", "-") in done.stdout


def test_the_stored_failures_can_be_replayed(directory: Path) -> None:
    code, screen = lora_compat("replay", str(directory))
    assert code == 1
    assert "STILL FAILS" in screen
    assert "ERROR" not in screen


def test_what_was_edited_is_left_alone_and_what_is_known_and_linked_ends_with_zero(
    failed: Failed, tmp_path: Path
) -> None:
    copied = Path(shutil.copytree(failed.directory, tmp_path / "regressions"))
    edited = {path: path.read_text(encoding="utf-8") + "# mine\n" for path in copied.glob("*.py")}
    for path, text in edited.items():
        path.write_text(text, encoding="utf-8")
    known = tmp_path / "known.json"
    known.write_text(failed.baseline.read_text(encoding="utf-8").replace('"link": ""', '"link": "#1"'), "utf-8")
    options = ("--impl", IMPL, "--max-examples", "4", "--write-regressions", str(copied), "--baseline", str(known))
    code, screen = lora_compat("certify", SCALED, *options)
    assert code == 0, screen
    assert "ScaledLinear: known failures only: " in screen
    assert "left alone" in screen
    assert all(path.read_text(encoding="utf-8") == text for path, text in edited.items())


def test_a_class_that_several_ranks_refuse_is_not_certified() -> None:
    subject = f"{SUBJECTS}.own_loaders:BoundByItsOwnRuleLinear"
    code, screen = lora_compat("certify", subject, "--max-examples", "8")
    assert code == 1
    assert "MATH-6    MUST    refused" in screen
    assert "so how many rows the checkpoint has cannot be known" in " ".join(screen.split())
