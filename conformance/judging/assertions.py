"""The assertions of the clause tests; each message says what was seen, what was expected, and where."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from conformance.engines.ranks import CallSite, CollectiveMismatch, RankFailed, site_of
from conformance.judging.anomalies import UNEXPLAINED
from conformance.judging.anomalies.linear import explain
from conformance.judging.anomalies.partial_sums import together
from conformance.judging.anomalies.traits import common_trait
from conformance.judging.facts import Aspect, Difference, Disagreement, Place, Raised
from conformance.judging.measuring import note
from conformance.judging.verdicts import Violation
from conformance.oracles.linear import Expected, error_bound, expected_of, signal
from conformance.subjects.building import flatten
from conformance.subjects.linear import RankSession
from conformance.subjects.outcomes import NotExercised, SubjectRaised
from conformance.subjects.subject import Subject
from strategies.cases import Case, Regime
from strategies.codec import Spec

T = TypeVar("T")


def assert_merged_equivalence(subject: Subject, case: Case, *, needs_signal: bool = True) -> list[list[Tensor]]:
    """Every rank's output is that of the same class with merged weights (MATH-1 and its neighbours).

    Returns:
        The outputs, per rank, for further assertions.

    Raises:
        Violation: it is not.
        NotExercised: the adapters change nothing, or less than the error bound, so nothing could be seen.
    """
    __tracebackhide__ = True
    actual = outputs_of(subject, case)
    expected = expected_of(subject, case)
    assert_outputs(case, actual, expected, subject=subject)
    if needs_signal and not _visible(case, expected):
        raise NotExercised("the adapters change no output by more than the error bound")
    return actual


def outputs_of(subject: Subject, case: Case) -> list[list[Tensor]]:
    """What each rank returns for the case's tokens, flattened."""
    __tracebackhide__ = True
    return observed(subject, case, lambda rank: flatten(rank.build().wrap().load().run()))


def observed(subject: Subject, case: Case, program: Callable[[RankSession], T]) -> list[T]:
    """`Subject.observe`, with what the implementation raises turned into a violation."""
    __tracebackhide__ = True
    with raising(case):
        return subject.observe(case, program)


@contextmanager
def raising(case: Spec) -> Iterator[None]:
    """What the implementation raises inside, or ranks that disagree, is a violation by ``case``."""
    __tracebackhide__ = True
    try:
        yield
    except CollectiveMismatch as error:
        raise Violation("collective-mismatch", Disagreement(*error.sites), case) from error
    except (SubjectRaised, RankFailed) as error:
        failure = error.failure if isinstance(error, SubjectRaised) else error
        place = Place(rank=failure.rank, ranks=failure.size)
        raise Violation("raised", told(failure.error, failure.site), case, place) from error


def told(error: BaseException, site: CallSite | None = None, *, but: str = "") -> Raised:
    """An exception as a fact."""
    where = site or site_of(error)
    return Raised(type(error).__name__, str(error), "" if where is None else str(where), but)


def assert_outputs(
    case: Case,
    actual: list[list[Tensor]],
    expected: list[Expected],
    *,
    subject: Subject | None = None,
    default: str | Callable[[], str] = UNEXPLAINED,
    blamed: Case | None = None,
    after: str = "",
) -> None:
    """The outputs of all ranks are the expected ones, exactly or within the derived bound.

    ``blamed`` is the case to run again, where that is not the one that says what is right; ``after`` what was done
    to it. A difference is named by computing what each known mistake would give (with ``subject``), else ``default``,
    which may be computed, too.
    """
    __tracebackhide__ = True
    actual, expected = together(case, actual, expected)

    def name() -> str:
        found = explain(case, actual, expected, subject) if subject else UNEXPLAINED
        if found == UNEXPLAINED:
            found = default if isinstance(default, str) else default()
        if found == UNEXPLAINED and not subject:
            found = common_trait(case, actual, expected) or UNEXPLAINED
        return found

    for rank, (outputs, right) in enumerate(zip(actual, expected, strict=True)):
        difference = first_difference(case, outputs, right)
        if difference is not None:
            raise Violation(name, replace(difference, after=after), blamed or case, Place(rank=rank))


def first_difference(case: Case, outputs: list[Tensor], right: Expected) -> Difference | None:
    """The worst element of the first output that differs by more than it may."""
    if len(outputs) != len(right.values):
        return Difference(Aspect.COUNT, len(outputs), len(right.values))
    for index, (output, value) in enumerate(zip(outputs, right.values, strict=True)):
        if output.numel() != value.numel():
            return Difference(Aspect.SHAPE, tuple(output.shape), tuple(value.shape), index)
        error = (output.double().reshape(value.shape) - value).abs()
        bound = error_bound(case, right.magnitudes[index].abs()) if right.magnitudes else torch.zeros_like(error)
        if case.regime is Regime.EXACT or not right.magnitudes:
            bound = torch.zeros_like(error)
            note(error, bound, None)
        else:
            note(error, bound, right.magnitudes[index].abs())
        excess = torch.where(error.isnan(), torch.inf, error - bound)
        if excess.numel() and float(excess.max()) > 0:
            worst = int(excess.argmax())
            return Difference(
                Aspect.VALUE,
                actual=float(output.double().reshape(-1)[worst]),
                expected=float(value.reshape(-1)[worst]),
                output=index,
                element=tuple(_coordinates(worst, value.shape)),
                allowed=float(bound.reshape(-1)[worst]),
            )
    return None


def assert_same_shapes(case: Case, actual: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    """As many tensors as the base layer returns, of its dtypes and shapes."""
    __tracebackhide__ = True
    seen, right = ([(tuple(one.shape), one.dtype) for one in each] for each in (actual, expected))
    if seen != right:
        raise Violation("base-forward-bypassed", Difference(Aspect.RESULT, str(seen), str(right)), case)


def assert_same_bits(
    case: Spec, actual: Sequence[Tensor], expected: Sequence[Tensor], *, anomaly: str, place: Place
) -> None:
    """Two lists of outputs agree bit for bit, in dtype and shape too; NaN equals NaN.

    The sign of a zero is left aside: adding a delta of zero may turn -0 into 0, which changes no value.
    """
    __tracebackhide__ = True
    if len(actual) != len(expected):
        seen, right = (f"{len(each)} tensors" for each in (actual, expected))
        raise Violation(anomaly, Difference(Aspect.FORM, seen, right), case, place)
    for index, (one, other) in enumerate(zip(actual, expected, strict=True)):
        if one.dtype != other.dtype or one.shape != other.shape:
            seen, right = (f"{tuple(each.shape)} {each.dtype}" for each in (one, other))
            raise Violation(anomaly, Difference(Aspect.FORM, seen, right, index), case, place)
        if not torch.equal(_bits(one), _bits(other)):
            where = tuple((_bits(one) != _bits(other)).nonzero()[0].tolist())
            difference = Difference(Aspect.BITS, float(one[where]), float(other[where]), index, where)
            raise Violation(anomaly, difference, case, place)


def assert_equal(case: Spec, output: Tensor, right: Tensor, place: Place, anomaly: str, *, after: str = "") -> None:
    """The same numbers in the same places, whatever the dimensions before the last; ``after`` what, if it matters."""
    __tracebackhide__ = True
    inflated = output.numel() != right.numel()
    if inflated or output.shape[-1:] != right.shape[-1:]:  # the latter of no tokens
        difference = Difference(Aspect.SHAPE, tuple(output.shape), tuple(right.shape))
        raise Violation("gather-inflated" if inflated else "base-forward-bypassed", difference, case, place)
    flat = output.reshape(right.shape).double()
    wrong = (flat != right.double()).nonzero()
    if len(wrong):
        where = tuple(wrong[0].tolist())
        difference = Difference(Aspect.VALUE, float(flat[where]), float(right[where]), element=where, after=after)
        raise Violation(anomaly, difference, case, place)


def _bits(tensor: Tensor) -> Tensor:
    plain = tensor.detach().contiguous()
    if plain.is_floating_point():
        plain = plain + 0.0
    return plain.view({1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[plain.element_size()])


def _coordinates(flat: int, shape: Sequence[int]) -> list[int]:
    place = []
    for size in reversed(shape):
        place.append(flat % size)
        flat //= size
    return place[::-1]


def _visible(case: Case, expected: list[Expected]) -> bool:
    if case.regime is Regime.EXACT:
        return any(signal(right.values, right.base) > 0 for right in expected)
    for right in expected:
        for value, base, magnitude in zip(right.values, right.base, right.magnitudes, strict=True):
            if bool(((value - base).abs() > 2 * error_bound(case, magnitude.abs())).any()):
                return True
    return False
