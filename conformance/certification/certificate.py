"""The certificate: a JSON document that says what was checked, how sharply, on what; and its verification.

Its hash shows an accidental or careless edit; it is no signature. Who must not be believed should be asked to
let the run be repeated: seed, versions and classes are in it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from conformance.certification.environment import model_hash, source_hash
from conformance.certification.outcome import OF_LAYERS, OF_THE_IMPLEMENTATION, Conclusion, Outcome, complete
from conformance.contract import CONTRACT, CONTRACT_VERSION
from conformance.judging.measuring import Evidence
from conformance.judging.verdicts import ClauseResult, Failure
from conformance.regressions.entries import Entry

FORMAT_VERSION = 1
MODEL = "model"  # the kind of a subject that is a whole model


def certificate(outcomes: Sequence[Outcome], run: Mapping[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
    """The certificate of a run, with its hash."""
    document: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "contract_version": CONTRACT_VERSION,
        "verdict": overall(outcomes).value,
        "run": dict(run),
        "environment": dict(environment),
        "subjects": [_subject(outcome) for outcome in outcomes],
    }
    return document | {"sha256": digest(document)}


def joined(documents: Sequence[Mapping[str, Any]], run: Mapping[str, Any]) -> tuple[dict[str, Any], list[Outcome]]:
    """The certificate of a run whose parts, of the same classes, are ``documents``, and what came of each class."""
    outcomes, subjects = [], []
    for parts in zip(*(document["subjects"] for document in documents), strict=True):
        results = [_result(entry, part["class"]) for part in parts for entry in part["clauses"]]
        outcome = Outcome(parts[0]["class"], unfit=parts[0]["unfit"], model=parts[0].get("kind") == MODEL)
        if outcome.unfit is None:
            outcome.results = complete(
                [one for one in results if not _is_about_others(one)], outcome.path, model=outcome.model
            )
        clauses = [_clause(result) for result in outcome.results.values()]
        subjects.append(
            dict(parts[0])
            | {"verdict": outcome.conclusion.value, "detection": detection(outcome.evidence), "clauses": clauses}
        )
        outcomes.append(outcome)
    document = dict(documents[0]) | {"verdict": overall(outcomes).value, "run": dict(run), "subjects": subjects}
    return document | {"sha256": digest(document)}, outcomes


def _is_about_others(result: ClauseResult) -> bool:
    reasons = "".join(result.reasons)
    return OF_THE_IMPLEMENTATION in reasons or OF_LAYERS in reasons


def overall(outcomes: Sequence[Outcome]) -> Conclusion:
    """The worst of the classes' verdicts."""
    order = list(Conclusion)
    return max((outcome.conclusion for outcome in outcomes), key=order.index, default=Conclusion.NOT_CERTIFIED)


def digest(document: Mapping[str, Any]) -> str:
    """SHA-256 over the document's canonical JSON, without the hash itself."""
    rest = {key: value for key, value in document.items() if key != "sha256"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def write(document: Mapping[str, Any], file: Path) -> None:
    """Writes the certificate."""
    file.write_text(text(document), encoding="utf-8")


def text(document: Mapping[str, Any]) -> str:
    """What is written to the file."""
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _subject(outcome: Outcome) -> dict[str, Any]:
    target = outcome.target
    recipe = target.subclass.recipe if target else None
    return {
        "kind": MODEL if outcome.model else "class",
        "class": outcome.path,
        "family": target.family.value if target else None,
        "recipe": recipe,
        "source_sha256": _hash(outcome),
        "verdict": outcome.conclusion.value,
        "unfit": str(outcome.unfit) if outcome.unfit else None,
        "known_failures": sorted(map(list, outcome.known)),
        "detection": detection(outcome.evidence),
        "clauses": [_clause(result) for result in outcome.results.values()],
    }


def _hash(outcome: Outcome) -> str | None:
    if outcome.model:
        return model_hash(outcome.path) if outcome.unfit is None else None
    return source_hash(outcome.path, outcome.target.subclass.recipe) if outcome.target else None


def detection(evidence: Evidence) -> dict[str, Any]:
    """The smallest planted deviation that the run would have rejected, in each regime.

    ``exact_cases`` were equal bit for bit, so one unit in the last place of one element was too much; in the best of
    ``rounded_cases`` a deviation of ``smallest_relative`` times an element's magnitude was.
    """
    data = evidence.to_dict()
    return {
        "exact_cases": evidence.exact,
        "exact_deviation": "one unit in the last place" if evidence.exact else None,
        "rounded_cases": evidence.rounded,
        "smallest_relative": data["smallest"],
    }


def _clause(result: ClauseResult) -> dict[str, Any]:
    entry = CONTRACT[result.clause]
    return {
        "id": result.clause,
        "level": entry.level.value,
        "sentence": entry.sentence,
        "verdict": result.verdict.value,
        "cases": result.cases,
        "counts": dict(sorted(result.counts.items())),
        "reasons": dict(sorted(result.reasons.items())),
        "detection": detection(result.evidence),
        "failures": [
            {
                "anomaly": failure.anomaly,
                "message": failure.message,
                "seen": failure.seen,
                "on_base": failure.on_base,
                "case": failure.case,
                "files": list(failure.files),
            }
            for failure in result.failures
        ],
        "errors": list(result.errors),
    }


def _result(entry: Mapping[str, Any], path: str) -> ClauseResult:
    """What `_clause` was made of, but for the evidence by rank and TP size, which a certificate has not."""
    measured = entry["detection"]
    smallest = math.inf if measured["smallest_relative"] is None else measured["smallest_relative"]
    return ClauseResult(
        entry["id"],
        Counter(entry["counts"]),
        Counter(entry["reasons"]),
        [
            Failure(
                entry["id"],
                one["anomaly"],
                one["message"],
                one["case"],
                repr(Entry(one["case"], "", ()).spec()),
                on_base=one["on_base"],
                seen=one.get("seen", {}),
            )
            for one in entry["failures"]
        ],
        list(entry["errors"]),
        evidence=Evidence(measured["exact_cases"], measured["rounded_cases"], smallest),
        target=path,
    )
