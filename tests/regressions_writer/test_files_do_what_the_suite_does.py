"""The file of a layer makes calls that the suite makes of it with the case, in the suite's order, and runs it last."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any
from unittest.mock import patch

import pytest
import torch
from hypothesis import Phase

from conformance.certification.clause_tests import bodies_of
from conformance.search.bodies import judges
from conformance.search.drawing import draw_cases
from conformance.subjects.outcomes import NotExercised
from conformance.test_files.scenes import reference
from conformance.test_files.writer import write_all
from lora_compat import TokenBatch
from lora_compat.adapters import LayerAdapter
from lora_compat.wrapper import LoRALinear
from strategies.cases import Case, Layout, Regime
from strategies.drawing import cases
from tests.regressions_writer.examples import entry_of
from tests.regressions_writer.test_files_stand_on_their_own import run_test

COUNT = 12
CALLS = ("set_lora", "reset_lora", "set_batch", "forward")
CLAUSES = {
    "MATH-1": "unexplained",
    "MATH-2": "order-dependent",
    "MATH-3": "adapter-leak",
    "MATH-5": "stale-slot",
    "MATH-7": "input-written",
    "MATH-13": "not-repeatable",
    "WRAP-4": "base-changed",
    "WRAP-5": "wrapped-twice",
}


@cache
def drawn(layouts: tuple[Layout, ...]) -> list[Case]:
    found: list[Case] = []
    source = cases(tp_sizes=(1,), regimes=(Regime.EXACT,), layouts=layouts, adapters=(1, 2), tokens=(1, 4))
    source = source.filter(lambda case: not case.subclass.forward.mixes_tokens)  # or it may be refused
    draw_cases(source, found.append, examples=COUNT, seed=1, phases=(Phase.generate,))
    return found


def plain(value: object) -> object:
    """What was handed over, as data."""
    if isinstance(value, torch.Tensor):
        return value.shape, (value.double() + 0.0).tolist()  # a file may drop the sign of a zero
    if isinstance(value, LayerAdapter):
        parts = [None if part is None else (plain(part.lora_a), plain(part.lora_b)) for part in value.parts]
        return parts, value.scaling
    return value.token_slots.tolist() if isinstance(value, TokenBatch) else value


@contextmanager
def noted() -> Iterator[list[object]]:
    """Every call of a LoRA layer, with what was handed to it."""
    seen: list[object] = []

    def noting(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def called(self: LoRALinear, *given: Any) -> Any:
            seen.append(repr((name, *map(plain, given))))
            return call(self, *given)

        return called

    with ExitStack() as patched:
        for name in CALLS:
            patched.enter_context(patch.object(LoRALinear, name, noting(name, getattr(LoRALinear, name))))
        yield seen


@pytest.mark.parametrize("clause", CLAUSES)
def test_the_file_of_a_layer_makes_calls_that_the_suite_makes_in_its_order(clause: str) -> None:
    tried = drawn(tuple(Layout) if clause in ("MATH-1", "MATH-7") else (Layout.TWO_D,))
    entries = [entry_of(clause, CLAUSES[clause], case) for case in tried]
    texts = write_all([(entry, entry.failures[0]) for entry in entries])
    for case, (text, _) in zip(tried, texts, strict=True):
        body = next(body for body in bodies_of(clause) if judges(body, case))
        try:
            with noted() as of_suite, torch.no_grad():
                body(reference(), case)
        except NotExercised:
            continue  # it went no further than it had to
        with noted() as of_file:
            run_test(str(text))
        rest = iter(of_suite)
        assert all(call in rest for call in of_file), (case, of_file, of_suite)
        assert "forward" in str(of_file[-1])
