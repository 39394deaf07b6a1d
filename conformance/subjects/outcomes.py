"""What a case can end in instead of an answer."""

from __future__ import annotations

NOT_HERE = "on this device it cannot run"  # begins the reason where another device might serve the case


class NotWrapped(Exception):
    """The implementation left the layer as it was, without a word."""


class SubjectRefused(Exception):
    """The implementation said that it will not serve the case."""


class SubjectRaised(Exception):
    """The implementation raised something that is no refusal."""


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


def named(error: BaseException, said: str, refusals: tuple[type[BaseException], ...]) -> Exception:
    """What ended a rank, as an outcome of its case; ``said`` tells it with the rank's number."""
    if isinstance(error, (NotWrapped, ClauseBroken)):
        return error
    return (SubjectRefused if isinstance(error, refusals) else SubjectRaised)(said)
