"""What takes long is begun first, so that at the end no worker waits for another one's file."""

from __future__ import annotations

import pytest

LONG = (
    "regressions_writer/test_a_run_hands_over.py",
    "shrinking/test_the_least_case_is_found.py",
    "mutants/test_every_planted_bug_is_caught.py",
    "manager/test_planted.py",
    "kernels/test_launches.py",
    "screens/test_what_a_person_sees.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files of `LONG`, then the others in their order."""
    items.sort(key=lambda item: not item.nodeid.partition("::")[0].endswith(LONG))
