"""The search for the failures of one clause: each way of failing is found, and shrunk, by a search of its own.

Hypothesis would report several failures of one search, but how many depends on the clock (it stops ten seconds after
the first), and shrinking one may slip into another. So a search here stops at its first failure and shrinks that one
only; the next search draws the same cases, passes over what is known, and goes on from there. What is found is then
the same on a slow machine and on a fast one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from hypothesis import Phase

from conformance.judging.verdicts import Violation
from conformance.search.drawing import Source, draw_cases
from conformance.search.settling import FEW_RANKS, manner
from strategies.codec import Spec

# Searching towards a target (`Phase.target`) finds no planted bug sooner: docs/results/power.md.
PHASES = (Phase.generate, Phase.shrink)
MAX_KINDS = 8  # ways of failing that one shard looks for
Judge = Callable[[Spec], object]
Sight = Callable[[Violation], object]


def nothing(found: Violation) -> bool:
    """That no failure is listed."""
    return False


class Search:
    """Draws ``examples`` cases from ``source`` with ``seed``, as often as there are ways of failing.

    ``judge`` runs a case and raises `Violation`; ``sight`` is told of a failure before it is shrunk. A case that was
    drawn before and passed is not judged again: it counts once, and another search costs little more than drawing.
    What is ``listed`` was explained before: it is told as it was met, and uses up nothing.
    """

    def __init__(
        self,
        source: Source,
        judge: Judge,
        sight: Sight,
        *,
        examples: int,
        seed: int,
        listed: Callable[[Violation], bool] = nothing,
    ) -> None:
        self._source = source
        self._judge = judge
        self._sight = sight
        self._examples = examples
        self._seed = seed
        self._listed = listed
        self._judged: dict[Spec, str] = {}  # how a case fails; empty where it does not
        self._met: dict[str, Violation] = {}  # in passing, while something else was shrunk
        self._as_met: list[Violation] = []  # what is listed
        self._found = 0
        self.known: set[str] = set()

    def failures(self) -> Iterator[Violation]:
        """Each way of failing that is not in `known` yet: those drawn are shrunk, then those met in passing, as met.

        Raises:
            hypothesis.errors.Flaky: a case failed once, and did not when it was run again.
        """
        while not self.exhausted and (found := self._next()) is not None:
            self._add(manner(found))
            yield found
        for kind, found in self._met.items():
            if kind not in self.known and not self.exhausted:
                self._add(kind)
                yield found
        yield from self._as_met

    @property
    def exhausted(self) -> bool:
        """Whether there may be ways of failing that were not looked for; what was known before uses nothing up."""
        return self._found >= MAX_KINDS

    def _add(self, kind: str) -> None:
        self._found += 1
        self.known.add(kind)

    def _next(self) -> Violation | None:
        wanted: str | None = None

        def run(case: Spec) -> None:
            nonlocal wanted
            before = self._judged.get(case)
            if before == "" or before in self.known:
                return
            # To shrink one of many ranks is left to `settled`, which tries fewer ranks first.
            if wanted not in (None, before) and getattr(case, "tp_size", 1) > FEW_RANKS:
                return
            try:
                self._judge(case)
            except Violation as found:
                kind = self._judged[case] = manner(found)
                if kind not in self.known and self._listed(found):
                    self.known.add(kind)
                    self._as_met.append(found)
                if kind in self.known:
                    return
                if wanted not in (None, kind):
                    self._met.setdefault(kind, found)
                    return
                if wanted is None:
                    self._sight(found)
                wanted = kind
                raise
            self._judged[case] = ""

        try:
            draw_cases(self._source, run, examples=self._examples, seed=self._seed, phases=PHASES)
        except Violation as found:
            return found
        return None
