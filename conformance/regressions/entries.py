"""What the store keeps of a failure, as data, and its form as a JSON file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from conformance.judging.facts import Sighting
from strategies.cases import Case
from strategies.codec import CaseFormatError, ImpossibleCase, Spec, from_dict
from strategies.experts import ExpertsCase
from strategies.models.cases import ModelCase
from strategies.programs import Program
from strategies.ranks import RankQuestion
from strategies.schemes import SchemeCase
from strategies.target_questions import TargetQuestion
from strategies.vocabulary import VocabularyCase

FORMAT_VERSION = 2
_READABLE = (1, 2)  # the first kept no `StoredFailure.seen`
_IDENTITY_CHARACTERS = 12


class UnreadableEntry(ValueError):
    """A file of the store that this release must leave alone; the message says which, and why."""


class VoidEntry(UnreadableEntry):
    """A file whose case contradicts itself: it failed rightly, and shows nothing of whoever failed it."""


_OTHERS = (ExpertsCase, ModelCase, Program, RankQuestion, SchemeCase, TargetQuestion, VocabularyCase)
_KINDS: dict[str, type[Spec]] = {"case": Case} | {cls.__name__: cls for cls in _OTHERS}


@dataclass(frozen=True, slots=True)
class StoredFailure:
    """One clause that a case breaks, on one implementation.

    ``impl`` is the ``--impl`` it was found with and ``identity`` its versions; ``indifferent`` are the parts of the
    case that do not matter, ``cause`` is equal for failures of one root cause; ``test`` is the function that found it,
    as a clause may have several; ``files`` has, for each test file written, its SHA-256 and what was proved of it;
    ``seen`` is `Sighting.to_dict`, empty where an older release found it.
    """

    clause: str
    anomaly: str
    message: str
    impl: str
    identity: Mapping[str, str] = field(default_factory=dict)
    indifferent: tuple[str, ...] = ()
    cause: str = ""
    test: str = ""
    files: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    seen: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sighting(self) -> Sighting:
        """What was seen, and where.

        Raises:
            UnreadableEntry: an older release kept only words.
        """
        if not self.seen:
            raise UnreadableEntry(
                f"{self.clause} {self.anomaly} was stored by an older release, in words alone: replay it"
            )
        return Sighting.from_dict(self.seen)

    @property
    def key(self) -> tuple[str, str, str]:
        """What tells failures of one case apart."""
        return self.clause, self.anomaly, self.impl


@dataclass(frozen=True, slots=True)
class Entry:
    """A case and the failures it shows. ``case`` is what `Failure.case` is: the kind and the case's own fields."""

    case: Mapping[str, Any]
    shown: str
    failures: tuple[StoredFailure, ...]

    @property
    def id(self) -> str:
        """The hash of the case alone."""
        return case_id(self.case)

    def spec(self) -> Spec:
        """The case itself.

        Raises:
            CaseFormatError: of a kind or format version that this release does not know.
        """
        kind = str(self.case.get("kind"))
        if kind not in _KINDS:
            raise CaseFormatError(f"kind {kind!r} is none of {', '.join(_KINDS)}")
        return from_dict({key: value for key, value in self.case.items() if key != "kind"}, _KINDS[kind])

    def with_failure(self, failure: StoredFailure) -> Entry:
        """The entry with ``failure`` in place of the one of the same key, whose files it keeps if it has none."""
        others = tuple(one for one in self.failures if one.key != failure.key)
        former = next((one for one in self.failures if one.key == failure.key), failure)
        return replace(self, failures=(*others, replace(failure, files=failure.files or former.files)))


def case_id(case: Mapping[str, Any]) -> str:
    """The first characters of the SHA-256 of a case's canonical JSON."""
    text = json.dumps(case, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:_IDENTITY_CHARACTERS]


def read_entry(path: Path) -> Entry:
    """The entry in a file of the store.

    Raises:
        UnreadableEntry: it is damaged, was edited by hand, or has another format version.
        VoidEntry: its case contradicts itself.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UnreadableEntry(f"{path}: cannot be read ({error}); left as it is") from error
    version = data.get("format_version") if isinstance(data, dict) else None
    if version not in _READABLE:
        advice = "replay it with the release that wrote it" if isinstance(version, int) else "it is no stored failure"
        raise UnreadableEntry(f"{path}: format_version is {version!r}, this release reads {FORMAT_VERSION}; {advice}")
    try:
        failures = tuple(
            StoredFailure(**{**failure, "indifferent": tuple(failure.get("indifferent", ()))})
            for failure in data["failures"]
        )
        entry = Entry(data["case"], data["shown"], failures)
    except (KeyError, TypeError, AttributeError) as error:
        raise UnreadableEntry(f"{path}: a field is missing or unknown ({error}); left as it is") from error
    if entry.id != path.stem:
        raise UnreadableEntry(
            f"{path}: edited by hand, its case has the id {entry.id}; left as it is. Rename it to {entry.id}.json to "
            "replay the case as it is now"
        )
    try:
        entry.spec()
    except ImpossibleCase as error:
        raise VoidEntry(f"{path}: {error}; no failure of anybody's, delete it") from error
    except CaseFormatError:
        pass  # of a kind or version that another release knows
    return entry


def entry_to_dict(entry: Entry) -> dict[str, Any]:
    """The JSON that `read_entry` reads."""
    return {
        "format_version": FORMAT_VERSION,
        "shown": entry.shown,
        "case": dict(entry.case),
        "failures": [asdict(failure) for failure in entry.failures],
    }
