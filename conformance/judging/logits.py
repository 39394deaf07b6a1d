"""Whether a model gives the logits that PEFT's own model gives."""

from __future__ import annotations

import torch
from torch import Tensor

from conformance.judging.anomalies.models import VANISHED
from conformance.judging.facts import Aspect, Difference
from conformance.judging.measuring import note
from conformance.judging.verdicts import Violation
from conformance.oracles.logits import Logits, RightLogits
from conformance.subjects.outcomes import NotExercised
from strategies.models.cases import ModelCase


def require_logits(case: ModelCase, right: RightLogits, base: Tensor, adapted: Tensor) -> None:
    """Raises where logits with the adapter are further from PEFT's than rounding takes them.

    ``base`` and ``adapted`` are ``[tokens, vocabulary]``, float64.

    Raises:
        NotExercised: the model gives other logits without any adapter, or the adapter changes less than is allowed.
        Violation: with the adapter they are wrong.
    """
    __tracebackhide__ = True
    if not right.signal > right.adapted.bound:  # what is no number, too
        raise NotExercised(
            f"the adapter changes logits by {right.signal:.1g}, and rounding by {right.adapted.bound:.1g}"
        )
    if base.shape != right.base.exact.shape or not _within(base, right.base):
        raise NotExercised(
            f"without any adapter the model's logits are {_error(base, right.base):.0e} from transformers'"
        )
    error = (adapted - right.adapted.exact).abs()
    bound = torch.full_like(error, right.adapted.bound)
    note(error, bound, torch.full_like(error, float(right.adapted.exact.abs().max())))
    if _within(adapted, right.adapted):
        return
    at = divmod(int(error.nan_to_num(float("inf")).argmax()), error.shape[1])
    without = f"; without the adapter {float(right.base.exact[at]):g}"
    wrong = Difference(
        Aspect.VALUE,
        float(adapted[at]),
        float(right.adapted.exact[at]),
        None,
        at,
        "logits",
        right.adapted.bound,
        without,
    )
    raise Violation(VANISHED if _within(adapted, right.base) else "other-logits", wrong, case)


def _within(seen: Tensor, right: Logits) -> bool:
    return bool(((seen - right.exact).abs() <= right.bound).all())


def _error(seen: Tensor, right: Logits) -> float:
    return float((seen - right.exact).abs().max()) if seen.shape == right.exact.shape else float("nan")
