"""Parts of one run, joined into what the whole run would have written; what is no whole run is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conformance.certification import certificate
from conformance.certification.outcome import DRAWN, Outcome
from conformance.contract import CONTRACT
from conformance.judging.verdicts import ClauseResult, summed
from conformance.suite.parts import Coverage, Part
from conformance.suite.reporting import RESULTS_FORMAT, read_json
from conformance.suite.screen import conclusion


class MergeError(Exception):
    """Parts that make no whole run; the message says which file, what is wrong with it, and what would help."""


@dataclass(frozen=True, slots=True)
class Piece:
    """The certificate, or the results, of one part."""

    file: Path
    document: Mapping[str, Any]
    coverage: Coverage

    @property
    def is_certificate(self) -> bool:
        """Whether it is of existing classes."""
        return "subjects" in self.document

    @property
    def identity(self) -> dict[str, Any]:
        """What all parts of one run have in common, by name."""
        document = self.document
        run = {name: value for name, value in document["run"].items() if name != "part"}
        about = document["environment"] if self.is_certificate else document["identity"]
        classes = [
            {name: subject[name] for name in ("class", "recipe", "source_sha256")}
            for subject in document.get("subjects", ())
        ]
        tests = {"number of tests": self.coverage.tests, "hash of the tests' names": self.coverage.names}
        kind = "certificate" if self.is_certificate else "results"
        common = {"kind": kind, "contract version": document["contract_version"], "classes": classes}
        return common | dict(about) | run | tests | {"number of parts": self.coverage.part.count}


def read(file: Path) -> Piece:
    """The part in ``file``.

    Raises:
        MergeError: it is not one.
    """
    document = read_json(file, MergeError)
    known = isinstance(document, dict) and isinstance(document.get("run"), dict)
    if not known or not document.keys() & {"subjects", "clauses"}:
        raise MergeError(f"{file} is neither a certificate nor results: give what --certificate or --results wrote")
    of_classes = "subjects" in document
    version = certificate.FORMAT_VERSION if of_classes else RESULTS_FORMAT
    if document.get("format_version") != version:
        raise MergeError(f"{file} has format {document.get('format_version')!r}, this release merges {version}")
    missing = {"contract_version", *(("environment", "sha256") if of_classes else ("identity",))} - document.keys()
    if missing:
        raise MergeError(f"{file} is incomplete: it lacks {', '.join(sorted(missing))}")
    if of_classes and document["sha256"] != certificate.digest(document):
        raise MergeError(f"{file} was altered: its hash is not that of its contents; certify that part again")
    if document["run"].get("part") is None:
        raise MergeError(f"{file} is a whole run, not a part: parts are written with --shard i/n")
    return Piece(file, document, Coverage.from_dict(document["run"]["part"]))


def merged(pieces: Sequence[Piece]) -> tuple[dict[str, Any], list[Outcome]]:
    """The whole run's certificate or results, and what came of each class.

    Raises:
        MergeError: the parts are of different runs, or some are missing, twice there, or cut short.
    """
    _require_one_run(pieces)
    _require_whole(pieces)
    pieces = sorted(pieces, key=lambda piece: piece.coverage.part.index)
    documents = [piece.document for piece in pieces]
    run = dict(documents[0]["run"]) | {"part": None}
    if pieces[0].is_certificate:
        return certificate.joined(documents, run)
    totals = summed(ClauseResult.from_dict(one) for document in documents for one in document["clauses"].values())
    totals = {clause: totals[clause] for clause in CONTRACT if clause in totals}
    clauses = {clause: result.to_dict() for clause, result in totals.items()}
    whole = dict(documents[0]) | {"run": run, "conclusion": conclusion(totals), "clauses": clauses}
    return whole, [Outcome(DRAWN, results=totals)]


def _require_one_run(pieces: Sequence[Piece]) -> None:
    first, *others = pieces
    for other in others:
        for name in {**first.identity, **other.identity}:
            one, two = (piece.identity.get(name, "not there") for piece in (first, other))
            if one != two:
                raise MergeError(
                    f"{first.file} and {other.file} are of different runs: {name} is {one!r} in the one and {two!r} "
                    "in the other; parts of one run differ in --shard alone"
                )


def _require_whole(pieces: Sequence[Piece]) -> None:
    files: dict[Part, Path] = {}
    for piece in pieces:
        part = piece.coverage.part
        if part in files:
            raise MergeError(f"{files[part]} and {piece.file} are both part {part}: give each part once")
        files[part] = piece.file
        missing = piece.coverage.own - piece.coverage.ran
        if missing:
            raise MergeError(
                f"{piece.file}, part {part}, has results of {len(piece.coverage.own) - len(missing)} of its "
                f"{len(piece.coverage.own)} tests: it was cut short, or a worker died; run that part again"
            )
    count = pieces[0].coverage.part.count
    gaps = [str(Part(index, count)) for index in range(1, count + 1) if Part(index, count) not in files]
    if gaps:
        raise MergeError(f"part {', '.join(gaps)} is missing: run it with --shard {gaps[0]}, and give its file too")
