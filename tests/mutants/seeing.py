"""Whether a clause of one test sees a planted bug, whatever the seed, and names it more often than not."""

from __future__ import annotations

from typing import Any

from benchmarks.power.hunting import ClauseTest, hunt, reference_subject
from tests.mutants.planting import Mutant


def assert_seen(test: Any, mutant: Mutant, seeds: int) -> None:
    """By every one of so many seeds; one case alone may look like another mistake."""
    one = ClauseTest(test.clause, test.__name__, test.strategy, test.body)
    caught = [hunt(one, reference_subject(), seed=seed, patch=mutant.patch) for seed in range(seeds)]
    assert None not in caught, mutant.story
    names = [catch.anomaly for catch in caught if catch]
    assert sum(name in mutant.anomalies for name in names) > seeds / 2, names
