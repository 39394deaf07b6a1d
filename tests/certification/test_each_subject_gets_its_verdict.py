"""Every kind of class, right or wrong, gets the right verdict or error, in one screen."""

from __future__ import annotations

import pytest
from syrupy.assertion import SnapshotAssertion

from conformance.certification.errors import SubjectError
from conformance.certification.probing import Prober
from conformance.certification.subjects import find
from conformance.engines.threads import ThreadsEngine
from conformance.implementations.reference import ReferenceImplementation
from conformance.subjects.subject import Subject
from tests.certification.screens import SUBJECTS, lora_compat, masked

ONE_SCREEN = 60  # lines
CERTIFIED, NOT_CERTIFIED, USAGE = 0, 1, 4
SERVED = (
    "bare:BareTensorLinear",
    "gated:GatedLinear",
    "replicated_slice:ReplicatedSliceLinear",
    "scaled:ScaledLinear",
    "stealing:StealingLinear",
)


def test_classes_that_the_reference_serves_are_certified() -> None:
    code, screen = lora_compat("certify", *(f"{SUBJECTS}.{subject}" for subject in SERVED), "--max-examples", "3")
    assert code == CERTIFIED, screen
    assert "5 of 5 classes certified" in screen


@pytest.mark.parametrize(
    "subject",
    [
        "unbuildable:ConfiguredLinear",
        "unbuildable:RaisingLinear",
        "unimportable:UnimportableLinear",
        "foreign:ForeignLinear",
        "foreign:not_a_class",
        "foreign",
        "plain:PlanLinear",
        "nowhere:Linear",
        "deadlocking:SkippingLinear",
        "deadlocking:HangingLinear",
    ],
)
def test_what_cannot_be_certified_says_why_in_one_screen(subject: str, snapshot: SnapshotAssertion) -> None:
    with pytest.raises(SubjectError) as raised:
        (found,) = find(f"{SUBJECTS}.{subject}")
        Prober(found, Subject(ReferenceImplementation(), ThreadsEngine(watchdog_seconds=1.0))).target()
    said = masked(f"{raised.value.title}: {raised.value}")
    assert len(said.splitlines()) <= ONE_SCREEN
    assert said == snapshot


def test_the_command_says_it_in_as_many_lines_and_exits_with_four() -> None:
    code, screen = lora_compat("certify", f"{SUBJECTS}.unbuildable:ConfiguredLinear")
    assert code == USAGE
    assert screen.startswith("ERROR: needs a recipe: ")
    assert "Traceback" not in screen
    assert len(screen.splitlines()) <= ONE_SCREEN


def test_a_class_that_hangs_is_not_certified_and_hangs_nothing() -> None:
    code, screen = lora_compat("certify", f"{SUBJECTS}.deadlocking:SkippingLinear")
    assert code == NOT_CERTIFIED
    assert "rank 0 issued all_reduce" in screen
    assert "rank 1 ended without it" in screen


def test_a_class_that_no_adapter_can_reach_is_refused_by_name() -> None:
    code, screen = lora_compat("certify", f"{SUBJECTS}.stealing:OutOfReachLinear", "--max-examples", "6")
    assert code == NOT_CERTIFIED
    assert screen.count("TensorBase.mul was called on the base weight") == 1
    assert len(screen.splitlines()) <= ONE_SCREEN


def test_the_recipe_makes_an_unbuildable_class_certified() -> None:
    recipe = ("--recipe", f"{SUBJECTS}.unbuildable:build")
    code, screen = lora_compat("certify", f"{SUBJECTS}.unbuildable:ConfiguredLinear", *recipe, "--max-examples", "6")
    assert code == CERTIFIED, screen
    assert "recipe tests.certification.subjects.unbuildable:build" in screen
