"""Known failures: what a run may fail of, by class, clause and anomaly, each with a link and a last day."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from conformance.certification.outcome import Outcome
from conformance.judging.facts import Fact, Raised
from conformance.judging.verdicts import Failure

FORMAT_VERSION = 1
_DAYS = 90  # how long an entry written by --update-baseline lives
_TO_BE_FILLED_IN = ""
_ANY = "*"


class BaselineError(Exception):
    """A file of known failures that cannot be read."""


@dataclass(frozen=True, slots=True, order=True)
class Entry:
    """One known failure; ``subject`` is a class path, or ``*`` for every class.

    ``role`` tells causes of one model apart: a pattern of `Failure.role`, such as ``mlp.gate`` or ``model.visual.*``.
    ``seen`` tells apart what else may go wrong there: a pattern of the fact's words, of an exception with where it
    was raised, such as ``StopIteration: * in LoRAModelManager.*``.
    """

    subject: str
    clause: str
    anomaly: str
    link: str
    expires: datetime.date
    role: str = _ANY
    seen: str = _ANY

    def covers(self, path: str) -> bool:
        """Whether the entry is about the class at ``path``."""
        return self.subject in (_ANY, path)

    def names(self, path: str, failure: Failure) -> bool:
        """Whether ``failure`` of the class at ``path`` is this one."""
        of_role = failure.key == (self.clause, self.anomaly) and fnmatchcase(failure.role, self.role)
        return of_role and self.covers(path) and (self.seen == _ANY or fnmatchcase(_words(failure.fact), self.seen))

    @property
    def aspects(self) -> dict[str, str]:
        """What it says of a failure besides clause and anomaly."""
        return {name: said for name, said in (("role", self.role), ("seen", self.seen)) if said != _ANY}


@dataclass(frozen=True, slots=True)
class Baseline:
    """The known failures in one file."""

    file: Path
    entries: tuple[Entry, ...] = ()
    today: datetime.date = datetime.date.min

    @classmethod
    def read(cls, file: Path, today: datetime.date | None = None) -> Baseline:
        """The baseline in ``file``.

        Raises:
            BaselineError: it is not there, or not of this format.
        """
        try:
            data = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise BaselineError(f"baseline {file} is not there: --update-baseline writes it") from None
        except ValueError as error:
            raise BaselineError(f"baseline {file} is no JSON: {error}") from error
        if not isinstance(data, dict) or data.get("format_version") != FORMAT_VERSION:
            raise BaselineError(f"baseline {file} should be an object with format_version {FORMAT_VERSION}")
        entries = tuple(
            _entry(file, number, one) for number, one in enumerate(data.get("known_failures", []), start=1)
        )
        return cls(file, entries, today or datetime.date.today())

    @classmethod
    def of(cls, outcomes: Sequence[Outcome], file: Path, today: datetime.date | None = None) -> Baseline:
        """The failures of a run; links and days that ``file`` has for them already are kept."""
        today = today or datetime.date.today()
        former = cls.read(file, today).entries if file.exists() else ()
        expires = today + datetime.timedelta(days=_DAYS)
        found = set()
        for outcome in outcomes:
            for failure in outcome.failures:
                known = [one for one in former if one.subject == outcome.path and one.names(outcome.path, failure)]
                new = Entry(outcome.path, *failure.key, _TO_BE_FILLED_IN, expires, glob_of(failure.role))
                found.update(known or [new])
        return cls(file, tuple(sorted(found)), today)

    def write(self) -> None:
        """Writes the file."""
        known = [
            {
                "class": one.subject,
                "clause": one.clause,
                "anomaly": one.anomaly,
                **one.aspects,
                "link": one.link,
                "expires": one.expires.isoformat(),
            }
            for one in self.entries
        ]
        data = {"format_version": FORMAT_VERSION, "known_failures": known}
        self.file.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    def known(self, path: str, failures: Iterable[Failure] = ()) -> set[tuple[str, str]]:
        """The ``(clause, anomaly)`` that the class at ``path`` may fail of today.

        Not one that one of ``failures`` has in a role of which nothing is known.
        """
        new = {failure.key for failure in failures if not self.lists(path, failure)}
        return {(one.clause, one.anomaly) for one in self._due if one.covers(path)} - new

    def lists(self, path: str, failure: Failure) -> bool:
        """Whether the class at ``path`` may fail like this today."""
        return any(one.names(path, failure) for one in self._due)

    @property
    def _due(self) -> list[Entry]:
        return [one for one in self.entries if self.today <= one.expires]

    def link(self, path: str, failure: Failure) -> str:
        """Where a failure of the class at ``path`` is reported, empty for nowhere; of several, who says most of it."""
        named = sorted((one for one in self.entries if one.names(path, failure)), key=lambda one: -len(one.aspects))
        return named[0].link if named else ""

    def links(self, path: str) -> dict[tuple[str, str], str]:
        """Where failures of the class at ``path`` are reported, by clause and anomaly, due or not."""
        return {(one.clause, one.anomaly): one.link for one in self.entries if one.covers(path)}

    def complaints(self, outcomes: Sequence[Outcome]) -> list[str]:
        """Entries without a link, expired ones, and those that nothing failed of; each fails the run."""
        complaints = []
        for one in self.entries:
            aspects = f" ({', '.join(one.aspects.values())})" if one.aspects else ""
            said = f"{self.file}: known failure {one.clause} {one.anomaly} of {one.subject}{aspects}"
            if one.expires < self.today:
                complaints.append(f"{said} expired on {one.expires}: fix it, or give it a later day")
            if not one.link:
                complaints.append(f"{said} has no link: say where it is reported")
            about = [outcome for outcome in outcomes if one.covers(outcome.path)]
            failed = any(one.names(outcome.path, failure) for outcome in about for failure in outcome.failures)
            # One class says nothing of all, and several may have nothing of a role.
            told = one.subject != _ANY or (len(about) > 1 and not one.aspects)
            if about and not failed and told:
                complaints.append(f"{said} is stale, nothing failed of it: remove the entry")
        return complaints


def _words(fact: Fact) -> str:
    return f"{fact} at {fact.site}" if isinstance(fact, Raised) and fact.site else str(fact)


def glob_of(role: str) -> str:
    """A pattern of just this role; of none, every one."""
    return re.sub(r"([\[*?])", r"[\1]", role) if role else _ANY


def _entry(file: Path, number: int, data: Any) -> Entry:
    names = {"class", "clause", "anomaly", "link", "expires"}
    if not isinstance(data, dict) or set(data) - {"role", "seen"} != names:
        raise BaselineError(f"baseline {file}, entry {number}: give {', '.join(sorted(names))}, received {data!r}")
    try:
        expires = datetime.date.fromisoformat(data["expires"])
    except (TypeError, ValueError):
        raise BaselineError(
            f"baseline {file}, entry {number}: expires is {data['expires']!r}, give a day such as '2027-01-31'"
        ) from None
    aspects = data.get("role", _ANY), data.get("seen", _ANY)
    return Entry(data["class"], data["clause"], data["anomaly"], data["link"], expires, *aspects)
