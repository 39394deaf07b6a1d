"""The contract: every clause with its level, its sentence and the bugs that taught it, as `contract.toml` has them.

`docs/contract.md` is generated from that table (``python -m conformance.contract``).
"""

from __future__ import annotations

import enum
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONTRACT_VERSION = 1


class Level(enum.Enum):
    """How binding a clause is."""

    MUST = "MUST"
    SHOULD = "SHOULD"


@dataclass(frozen=True, slots=True)
class Clause:
    """One sentence an implementation can keep or break."""

    id: str
    level: Level
    sentence: str
    history: tuple[str, ...] = ()

    @property
    def chapter(self) -> str:
        return self.id.partition("-")[0]


def _clause(id_: str, said: Mapping[str, Any]) -> Clause:
    return Clause(id_, Level(said["level"]), said["sentence"], tuple(said.get("history", ())))


_TABLE = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
CHAPTERS: dict[str, str] = _TABLE["chapters"]
CONTRACT: dict[str, Clause] = {id_: _clause(id_, said) for id_, said in _TABLE["clauses"].items()}
MODEL_CLAUSES = tuple(name for name, clause in CONTRACT.items() if clause.chapter == "MODEL")


def page() -> str:
    """The contract as Markdown."""
    lines = [
        "# The contract",
        "",
        f"Generated from `conformance/contract.toml`, version {CONTRACT_VERSION}. What a LoRA implementation must do",
        "with a linear layer it is handed, and with a model and its adapter files.",
    ]
    for chapter, title in CHAPTERS.items():
        clauses = [clause for clause in CONTRACT.values() if clause.chapter == chapter]
        if clauses:
            lines += ["", f"## {chapter} — {title}", ""]
        for clause in clauses:
            history = f" *({', '.join(clause.history)})*" if clause.history else ""
            lines.append(f"- **{clause.id}** {clause.level.value} {clause.sentence}{history}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")
