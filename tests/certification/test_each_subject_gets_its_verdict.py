"""Every kind of class, right or wrong, gets the right verdict or error, in one screen."""

from __future__ import annotations

import pytest
from syrupy.assertion import SnapshotAssertion

from tests.certification.screens import QUICK, SUBJECTS, lora_compat

ONE_SCREEN = 60  # lines
CERTIFIED, NOT_CERTIFIED, USAGE = 0, 1, 4


@pytest.mark.parametrize(
    "subject",
    [
        "scaled:ScaledLinear",
        "stealing:StealingLinear",
        "replicated_slice:ReplicatedSliceLinear",
        "bare:BareTensorLinear",
        "gated:GatedLinear",
    ],
)
def test_a_class_that_the_reference_serves_is_certified(subject: str) -> None:
    code, screen = lora_compat("certify", f"{SUBJECTS}.{subject}", "--max-examples", "12")
    assert code == CERTIFIED, screen
    assert screen.splitlines()[-2].endswith(f"{subject}: certified"), screen


@pytest.mark.parametrize(
    ("subject", "code"),
    [
        ("stealing:OutOfReachLinear", NOT_CERTIFIED),
        ("unbuildable:ConfiguredLinear", USAGE),
        ("unbuildable:RaisingLinear", USAGE),
        ("unimportable:UnimportableLinear", USAGE),
        ("foreign:ForeignLinear", USAGE),
        ("foreign:not_a_class", USAGE),
        ("foreign", USAGE),
        ("plain:PlanLinear", USAGE),
        ("nowhere:Linear", USAGE),
        ("deadlocking:SkippingLinear", NOT_CERTIFIED),
        ("deadlocking:HangingLinear", NOT_CERTIFIED),
    ],
)
def test_what_cannot_be_certified_says_why_in_one_screen(subject: str, code: int, snapshot: SnapshotAssertion) -> None:
    found, screen = lora_compat("certify", f"{SUBJECTS}.{subject}", *QUICK)
    assert found == code, screen
    assert len(screen.splitlines()) <= ONE_SCREEN
    assert "Traceback" not in screen
    assert screen == snapshot


def test_the_recipe_makes_an_unbuildable_class_certified() -> None:
    recipe = ("--recipe", f"{SUBJECTS}.unbuildable:build")
    code, screen = lora_compat("certify", f"{SUBJECTS}.unbuildable:ConfiguredLinear", *recipe, "--max-examples", "12")
    assert code == CERTIFIED, screen
    assert "recipe tests.certification.subjects.unbuildable:build" in screen


def test_a_module_certifies_every_linear_class_in_it() -> None:
    code, screen = lora_compat("certify", f"{SUBJECTS}.stealing", "--max-examples", "12")
    assert code == NOT_CERTIFIED
    assert "1 of 2 classes certified" in screen


def test_a_scaling_class_is_not_certified_where_the_delta_is_added_after_its_forward() -> None:
    impl = ("--impl", "tests.certification.additive:Additive")
    code, screen = lora_compat("certify", f"{SUBJECTS}.scaled:ScaledLinear", *impl, *QUICK)
    assert code == NOT_CERTIFIED
    assert "MATH-1    MUST    fail" in screen
    verdict = " ".join(screen.split())
    assert "its family's base class keeps" in verdict, "the base class is served, so this one is to blame"
