"""Results that a run keeps for the next one (``--resume``), each with the state of the code that it is of."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conformance.judging.verdicts import ClauseResult
from conformance.suite.budget import Budget
from conformance.suite.reporting import write_json

Asked = tuple[str, str, Budget]  # clause, name of the test, and how much of it
_STATE = "state"


@dataclass(frozen=True, slots=True)
class KeptResults:
    """A folder with a file for each clause of each target.

    ``state`` is what a result depends on besides what is asked: versions, and a digest of the suite. What was kept of
    another state counts for nothing, and is overwritten.
    """

    folder: Path
    impl: str
    state: Mapping[str, str]

    def find(self, target: str, asked: Asked) -> ClauseResult | None:
        """The result of this state, None for none."""
        path = self._path(target, asked)
        kept = read(path) if path.exists() else {}
        return ClauseResult.from_dict(kept) if kept.get(_STATE) == self.state else None

    def keep(self, target: str, asked: Asked, result: ClauseResult) -> None:
        """Puts a result there; errors are not kept."""
        if not result.errors:
            write_json(self._path(target, asked), result.to_dict() | {_STATE: dict(self.state)})

    def notes(self) -> list[str]:
        """What a run says of results that it does not take: a line, or none."""
        kept = [read(path) for path in sorted(self.folder.glob("*.json"))]
        others = [one for one in kept if one.get(_STATE) != self.state]
        if not others:
            return []
        differing = sorted({name for one in others for name in self._differing(one.get(_STATE))})
        return [
            f"certify: {len(others)} of {len(kept)} results in {self.folder} are of another state "
            f"({', '.join(differing)}); what is asked of them is run again"
        ]

    def _differing(self, state: Mapping[str, str] | None) -> set[str]:
        if state is None:
            return {"none is told"}
        return {name for name in (*self.state, *state) if self.state.get(name) != state.get(name)}

    def _path(self, target: str, asked: Asked) -> Path:
        clause, name, budget = asked
        key = hashlib.sha256(f"{self.impl}/{target}/{clause}/{name}/{budget}".encode()).hexdigest()[:16]
        return self.folder / f"{re.sub('[^A-Za-z0-9_]+', '-', target)}-{clause}-{key}.json"


def read(path: Path) -> dict[str, Any]:
    """What is in a file that was kept."""
    return dict(json.loads(path.read_text(encoding="utf-8")))
