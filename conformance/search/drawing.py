"""Where cases come from: a strategy, or a state machine that writes a program; either way Hypothesis draws them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis.internal.conjecture.providers import AVAILABLE_PROVIDERS, HypothesisProvider
from hypothesis.stateful import run_state_machine_as_test
from hypothesis.strategies import SearchStrategy

from conformance.search.program_machines import ProgramMachine
from strategies.codec import Spec

# Cases of another backend are drawn independently, and shrunk as usual. Hypothesis itself draws a first tenth of small
# cases, and follows each later one with up to five in which one draw is copied over another that looks like it: near
# copies of each other, and finding what looks alike costs a tenth of a case.
BACKEND = "independent"


class IndependentProvider(HypothesisProvider):
    """Hypothesis's own draws, but of bounded integers, which are uniform.

    Hypothesis takes one in twenty from the numbers that stand in the source of the modules imported so far: what a
    seed draws would change with the tests that ran before.
    """

    def draw_integer(
        self,
        min_value: int | None = None,
        max_value: int | None = None,
        *,
        weights: dict[int, float] | None = None,
        shrink_towards: int = 0,
    ) -> int:
        if min_value is None or max_value is None or weights is not None or self._random is None:
            return super().draw_integer(min_value, max_value, weights=weights, shrink_towards=shrink_towards)
        return self._random.randint(min_value, max_value)


AVAILABLE_PROVIDERS[BACKEND] = IndependentProvider
Source = SearchStrategy[Any] | type[ProgramMachine]


def draw_cases(
    source: Source, judge: Callable[[Any], None], *, examples: int, seed: int, phases: Sequence[Phase]
) -> None:
    """Hands ``judge`` cases of ``source``, the same for the same seed, and shrinks the first that it raises on.

    Raises:
        Exception: what ``judge`` raises on the shrunk case.
        hypothesis.errors.Flaky: it raised once, and did not when the case was run again.
    """
    options = settings(
        max_examples=examples,
        database=None,
        deadline=None,
        derandomize=False,
        print_blob=False,
        report_multiple_bugs=False,
        verbosity=Verbosity.quiet,
        phases=phases,
        backend=BACKEND,
        suppress_health_check=list(HealthCheck),
    )
    if isinstance(source, SearchStrategy):

        @hypothesis.seed(seed)
        @options
        @given(case=source)
        def run(case: Spec) -> None:
            judge(case)

        run()
        return
    stepwise = settings(options, stateful_step_count=source.max_steps)
    seeded: Any = hypothesis.seed(seed)(lambda: source(judge))  # a factory, which is called like the class
    run_state_machine_as_test(seeded, settings=stepwise)
