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

    ``base`` and ``adapted`` are ``[tokens, vocabulary]``, float64. Where they begin to differ without any adapter, as
    windows of another length do, the tokens before are compared: none of them sees what comes after it.

    Raises:
        NotExercised: the model gives other logits without any adapter, from the first half of the tokens on, or the
            adapter changes less than is allowed.
        Violation: with the adapter they are wrong.
    """
    __tracebackhide__ = True
    agreed = _agreed(base, right.base)
    if 2 * agreed < len(right.tokens):
        raise NotExercised(
            f"without any adapter the model's logits are {_error(base, right.base):.0e} from transformers', "
            f"from token {agreed} on"
        )
    adapted, wanted = adapted[:agreed], right.first(agreed)
    if not wanted.signal > wanted.adapted.bound:  # what is no number, too
        raise NotExercised(
            f"the adapter changes logits by {wanted.signal:.1g}, and rounding by {wanted.adapted.bound:.1g}"
        )
    error = (adapted - wanted.adapted.exact).abs()
    bound = torch.full_like(error, wanted.adapted.bound)
    note(error, bound, torch.full_like(error, float(wanted.adapted.exact.abs().max())))
    if _within(adapted, wanted.adapted):
        return
    at = divmod(int(error.nan_to_num(float("inf")).argmax()), error.shape[1])
    without = f"; without the adapter {float(wanted.base.exact[at]):g}"
    wrong = Difference(
        Aspect.VALUE,
        float(adapted[at]),
        float(wanted.adapted.exact[at]),
        None,
        at,
        "logits",
        wanted.adapted.bound,
        without,
    )
    raise Violation(VANISHED if _within(adapted, wanted.base) else "other-logits", wrong, case)


def _agreed(seen: Tensor, right: Logits) -> int:
    """At how many first tokens logits are right."""
    if seen.shape != right.exact.shape:
        return 0
    within = ((seen - right.exact).abs() <= right.bound).all(dim=-1)
    return int(within.long().cumprod(dim=0).sum())


def _within(seen: Tensor, right: Logits) -> bool:
    return bool(((seen - right.exact).abs() <= right.bound).all())


def _error(seen: Tensor, right: Logits) -> float:
    return float((seen - right.exact).abs().max()) if seen.shape == right.exact.shape else float("nan")
