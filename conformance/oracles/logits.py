"""The logits of PEFT's own model: transformers' class with the base checkpoint and the adapter directory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import torch
from torch import Tensor

from conformance.implementations.doubles import in_double
from conformance.subjects.models.chains import Chain
from conformance.subjects.models.checkpoints import resolved
from conformance.subjects.models.counterparts import imported
from conformance.subjects.outcomes import NotApplicable
from strategies.models.cases import ModelCase

TOKENS = 40  # more than the window of small models, which is of 32


@dataclass(frozen=True, slots=True)
class Logits:
    """The logits of one sequence, ``[tokens, vocabulary]``: in float64, and the same model's in float32."""

    exact: Tensor
    rounded: Tensor

    @property
    def bound(self) -> float:
        """How far the logits of another implementation may be from `exact`, which must be of float64 as well.

        It is what rounding to float32 makes of this very model on these tokens. Rounding to float64 does 2^-29 of
        that at each operation. Errors that cancel as they mostly do grow with the root of the number N of operations,
        and with N at worst (Higham and Mary, 2019), so that two runs in float64 differ by at most 2 √N 2^-29 of it:
        a hundred-thousandth for the 10^7 operations of a small model.
        """
        return float((self.rounded.double() - self.exact).abs().max())

    def first(self, count: int) -> Logits:
        """Those of the first tokens."""
        return Logits(self.exact[:count], self.rounded[:count])


@dataclass(frozen=True, slots=True)
class RightLogits:
    """What the logits of a case have to be, without and with its adapter."""

    tokens: Tensor
    base: Logits
    adapted: Logits

    @property
    def signal(self) -> float:
        """The most that the adapter changes of any logit."""
        return float((self.adapted.exact - self.base.exact).abs().max())

    def first(self, count: int) -> RightLogits:
        """Those of the first tokens."""
        return RightLogits(self.tokens[:count], self.base.first(count), self.adapted.first(count))


@dataclass(frozen=True, slots=True)
class ExactLogits:
    """The logits of PEFT's own model in float64, ``[tokens, vocabulary]``, without and with the adapter."""

    tokens: Tensor
    base: Tensor
    adapted: Tensor

    def with_bounds(self, case: ModelCase, chain: Chain) -> RightLogits:
        """The same with what rounding comes to, which only who has logits to compare has to know."""
        base, adapted = _run(case, chain, self.tokens, double=False)
        return RightLogits(self.tokens, Logits(self.base, base), Logits(self.adapted, adapted))


def exact_logits(case: ModelCase, chain: Chain) -> ExactLogits:
    """What PEFT's own model gives.

    Raises:
        NotApplicable: transformers' class does not run on tokens alone, or PEFT's model of it does not.
    """
    if not resolved(case.target).implementation:
        raise NotApplicable("transformers has no implementation of it")
    tokens = tokens_of(case)
    return ExactLogits(tokens, *_run(case, chain, tokens, double=True))


def tokens_of(case: ModelCase) -> Tensor:
    """One sequence of the case's seed, of the first half of the vocabulary: special tokens are in the other."""
    generator = torch.Generator().manual_seed(crc32(f"{case.seed}/tokens".encode()))
    return torch.randint(0, case.config.vocabulary // 2, (TOKENS,), generator=generator)


def _run(case: ModelCase, chain: Chain, tokens: Tensor, *, double: bool) -> tuple[Tensor, Tensor]:
    """Logits of the base and with the adapter."""
    from peft import PeftModel

    cls = imported(resolved(case.target).implementation)
    with torch.no_grad(), in_double() if double else nullcontext():
        with _applicable("transformers' class does not run on tokens alone"):
            model, info = cls.from_pretrained(
                chain.base,
                dtype=torch.get_default_dtype(),
                attn_implementation="eager",
                experts_implementation="eager",
                output_loading_info=True,
            )
            _require_loaded(info)
            base = _forward(model, tokens)
        with _applicable("PEFT's model does not run, which transformers' class does without the adapter"):
            wrapped: Any = PeftModel.from_pretrained(model, str(chain.adapter)).to(torch.get_default_dtype())
            return base, _forward(wrapped, tokens)


@contextmanager
def _applicable(otherwise: str) -> Iterator[None]:
    """Inside, what transformers or PEFT raises makes the clause not applicable."""
    try:
        yield
    except NotApplicable:
        raise
    except Exception as error:
        said = (str(error).splitlines() or [""])[0][:200]
        raise NotApplicable(f"{otherwise}: {type(error).__name__}: {said}") from error


def _require_loaded(info: Mapping[str, Any]) -> None:
    """Raises where weights are not those of the checkpoint: some types are published under names of others."""
    missing = sorted(info["missing_keys"]) + sorted(str(one) for one in info["mismatched_keys"])
    if missing:
        raise NotApplicable(f"transformers does not find {missing[0]} in a checkpoint as it is published")


def _forward(model: Any, tokens: Tensor) -> Tensor:
    returned = model(input_ids=tokens[None], use_cache=False)
    if getattr(returned, "logits", None) is None:
        raise NotApplicable("transformers' class gives no logits")
    found: Tensor = returned.logits
    return found[0].clone()
