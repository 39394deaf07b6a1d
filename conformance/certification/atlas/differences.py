"""What an earlier run, mostly of another release, said otherwise of the same architectures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from conformance.certification.atlas.results import OfName, judged, read, releases
from conformance.certification.changes import Changes, Key


@dataclass(frozen=True, slots=True)
class Differences:
    """An earlier run beside today's; ``title`` says of what it is."""

    folder: Path
    title: str
    results: Mapping[str, OfName]

    @classmethod
    def since(cls, folder: Path) -> Differences:
        """Those to what ``--resume`` kept in ``folder``."""
        return cls(folder, f"vLLM {' and '.join(sorted(releases(folder)))}", read(folder))

    def lines(self, now: Mapping[str, OfName]) -> Iterator[str]:
        """A row for each architecture of another verdict or with other anomalies, and who is in one run alone."""
        before = {name: of_name for name, of_name in self.results.items() if judged(of_name)}
        both = [name for name in now if name in before]
        changed = {name: Changes.between(self.folder, before[name], now[name]) for name in both}
        rows = {name: one for name, one in changed.items() if one.verdicts or one.new or one.gone}
        yield f"{len(both)} architectures were judged by both runs: {len(both) - len(rows)} alike, {len(rows)} not."
        if rows:
            yield from (
                "",
                "| architecture | verdicts | anomalies here alone | anomalies there alone |",
                "|---|---|---|---|",
            )
        for name, one in rows.items():
            verdicts = ", ".join(f"{clause} {old} → {new}" for clause, old, new in one.verdicts)
            yield f"| {name} | {verdicts} | {_listed(one.new)} | {_listed(one.gone)} |"
        for where, names in (("here", [name for name in now if name not in before]), ("there", [*before])):
            alone = [name for name in names if name not in both]
            if alone:
                yield from ("", f"Judged {where} alone ({len(alone)}): {', '.join(alone)}.")


def _listed(keys: tuple[Key, ...]) -> str:
    return ", ".join(f"{clause} *{anomaly}*" for clause, anomaly in keys)
