"""MATH-17 on an implementation's own quantization schemes: whatever a kernel multiplies with, adapters are added."""

from __future__ import annotations

import torch
from torch import Tensor

from conformance.engines.ranks import RankFailed
from conformance.implementations.protocol import Deployment, Unavailable
from conformance.judging.facts import Aspect, Difference, Place
from conformance.judging.verdicts import Violation
from conformance.subjects.outcomes import NOT_HERE, NotApplicable, NotExercised, SubjectRefused
from conformance.subjects.subject import Subject
from conformance.suite.clauses import check
from lora_compat.adapters import LayerAdapter, SubAdapter
from strategies.schemes import SchemeCase, scheme_cases

SCALING = 2.0
_DTYPE = torch.bfloat16
_LEAST_RANK = 8


def adapter_of(case: SchemeCase) -> SubAdapter:
    """Rows of A pick one column each, and B is of signs, so that the delta is exact in bfloat16."""
    generator = torch.Generator().manual_seed(case.seed)
    lora_a = torch.zeros(case.rank, case.columns)
    lora_a[torch.arange(case.rank), torch.randperm(case.columns, generator=generator)[: case.rank]] = 1.0
    lora_b = torch.randint(0, 2, (case.rows, case.rank), generator=generator).float() * 2 - 1
    return SubAdapter(lora_a.to(_DTYPE), lora_b.to(_DTYPE))


def input_of(case: SchemeCase) -> Tensor:
    """``[tokens, columns]`` of small integers."""
    generator = torch.Generator().manual_seed(case.seed + 1)
    return torch.randint(-3, 4, (len(case.tokens), case.columns), generator=generator).to(_DTYPE)


@check("MATH-17", scheme_cases())
def test_adapters_are_added_to_what_a_scheme_of_its_own_gives(subject: Subject, case: SchemeCase) -> None:
    outputs = getattr(subject.implementation, "scheme_outputs", None)
    if outputs is None:
        raise NotApplicable("its schemes are those that MATH-11 and MATH-17 draw for any layer")
    part, x = adapter_of(case), input_of(case)
    max_rank = max(_LEAST_RANK, 1 << (case.rank - 1).bit_length())  # the power of two that vLLM's LoRAConfig takes
    deployment = Deployment(1, max_rank, False, (1,), _DTYPE)
    try:
        bare, output = outputs(case, deployment, LayerAdapter((part,), SCALING), x)
    except Unavailable as error:
        raise NotApplicable(f"{NOT_HERE} {case.scheme.value}: {error}") from error
    except subject.implementation.refusals as error:
        raise SubjectRefused(RankFailed(0, 1, error)) from error
    with_adapter = torch.tensor(case.tokens).eq(0).unsqueeze(1)
    delta = SCALING * (x.double() @ part.lora_a.double().t() @ part.lora_b.double().t()) * with_adapter
    # One rounding of the sum, and one of each rank's product on the way.
    bound = torch.finfo(_DTYPE).eps * (bare.double().abs() + 2 * delta.abs() + SCALING * 3 * case.rank)
    if not bool((delta.abs() > 2 * bound).any()):
        raise NotExercised("no delta stands out from rounding")
    without = ~with_adapter.expand_as(bare)
    if not torch.equal(output[without], bare[without]):
        raise Violation("adapter-leak", f"{case.scheme.value}: a token without an adapter is changed", case)
    excess = ((output.double() - bare.double() - delta).abs() - bound).nan_to_num(torch.inf)
    if bool((excess > 0).any()):
        row, column = divmod(int(excess.argmax()), case.rows)
        got, should = float(output[row, column]), float(bare.double()[row, column] + delta[row, column])
        anomaly = "delta-dropped" if torch.equal(output, bare) else "unexplained"
        difference = Difference(Aspect.VALUE, got, should, element=(row, column))
        raise Violation(anomaly, difference, case, Place(setting=case.scheme.value))
