"""What a case can end in instead of an answer."""

from __future__ import annotations

from functools import partial
from typing import Any

from conformance.engines.ranks import RankFailed

NOT_HERE = "on this device it cannot run"  # begins the reason where another device might serve the case


class NotWrapped(Exception):
    """The implementation left a layer of this family as it was, without a word."""

    def __init__(self, family: str, *, subclass: bool = False, said: str = "") -> None:
        super().__init__(
            said or f"a {family} layer was left unwrapped, {'a subclass' if subclass else 'the base class'}"
        )
        self.family, self.subclass, self._said = family, subclass, said

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(NotWrapped, self.family, subclass=self.subclass, said=self._said), ()


class SubjectRefused(Exception):
    """The implementation said that it will not serve the case."""

    def __init__(self, failure: RankFailed) -> None:
        super().__init__(str(failure))
        self.reason = f"a rank: {type(failure.error).__name__}: {failure.error}"  # the same whichever rank said it


class FileRefused(SubjectRefused):
    """The implementation will not take an adapter file, and names what is in the way."""

    def __init__(self, reason: str) -> None:
        Exception.__init__(self, reason)
        self.reason = reason


class SubjectRaised(Exception):
    """The implementation raised something that is no refusal, on the rank that ``failure`` tells."""

    def __init__(self, failure: RankFailed) -> None:
        super().__init__(str(failure))
        self.failure = failure


class AdapterRefused(Exception):
    """An adapter that fits its layer was refused: no WRAP-6 refusal, which is about layers."""


class HarnessError(Exception):
    """The oracle or the base layer failed by itself; nothing is known of the implementation."""


class NotExercised(Exception):
    """The case could not have shown the clause broken; it is counted, and is not a pass."""


class NotApplicable(Exception):
    """The implementation declares the case unsupported."""


class ClauseBroken(AssertionError):
    """What the body of a clause itself found while a rank ran."""


def named(failure: RankFailed, refusals: tuple[type[BaseException], ...]) -> Exception:
    """What ended a rank, as an outcome of its case."""
    if isinstance(failure.error, (NotWrapped, ClauseBroken)):
        return failure.error
    return SubjectRefused(failure) if isinstance(failure.error, refusals) else SubjectRaised(failure)
