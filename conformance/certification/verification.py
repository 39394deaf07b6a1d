"""Whether a certificate certifies what it says, today."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from conformance.certification.certificate import FORMAT_VERSION, MODEL, digest, text
from conformance.certification.environment import model_hash, source_hash
from conformance.certification.outcome import Conclusion
from conformance.contract import CONTRACT, CONTRACT_VERSION, Level
from conformance.judging.verdicts import Verdict
from conformance.suite.reporting import read_json

_GREEN = (Verdict.PASS.value, Verdict.NOT_APPLICABLE.value)


class CertificateError(Exception):
    """A certificate that does not certify; the message says what is wrong with it, and what would help."""


def verify(file: Path) -> dict[str, Any]:
    """The certificate in ``file``, complete, unaltered, green, and of classes that are still the same.

    Raises:
        CertificateError: it is not all of that.
    """
    document = _read(file)
    # The text too, so that a byte that JSON does not mind, or a key given twice, does not pass.
    if document["sha256"] != digest(document) or file.read_text(encoding="utf-8") != text(document):
        raise CertificateError(f"{file} was altered: its hash is not that of its contents. Certify again.")
    if document["contract_version"] != CONTRACT_VERSION:
        raise CertificateError(
            f"{file} is of contract version {document['contract_version']}, this release has {CONTRACT_VERSION}: "
            "certify again"
        )
    part = document["run"].get("part")
    if part is not None:
        raise CertificateError(f"{file} is part {part['part']} of a run: verify what `lora-compat merge` makes of all")
    if not document["subjects"]:
        raise CertificateError(f"{file} certifies nothing: it has no class")
    for subject in document["subjects"]:
        _verify_subject(file, subject)
    if document["verdict"] != Conclusion.CERTIFIED.value:
        raise CertificateError(f"{file} says {document['verdict']!r}, though every clause in it is green")
    return document


def _read(file: Path) -> dict[str, Any]:
    document = read_json(file, CertificateError, "certificate")
    expected = {"format_version", "contract_version", "verdict", "run", "environment", "subjects", "sha256"}
    missing = expected - set(document) if isinstance(document, dict) else expected
    if missing:
        raise CertificateError(f"{file} is incomplete: it lacks {', '.join(sorted(missing))}")
    if document["format_version"] != FORMAT_VERSION:
        raise CertificateError(
            f"{file} has format {document['format_version']!r}, this release reads {FORMAT_VERSION}"
        )
    return dict(document)


def _verify_subject(file: Path, subject: Mapping[str, Any]) -> None:
    path = subject["class"]
    clauses = {entry["id"]: entry for entry in subject["clauses"]}
    missing = [clause for clause in CONTRACT if clause not in clauses]
    if missing:
        raise CertificateError(f"{file} is incomplete: {path} has no verdict on {', '.join(missing)}")
    red = [
        f"{clause} ({clauses[clause]['verdict']})"
        for clause, entry in CONTRACT.items()
        if entry.level is Level.MUST and clauses[clause]["verdict"] not in _GREEN
    ]
    red += [
        f"{entry['id']} (refused in {entry['counts'][Verdict.REFUSED.value]} cases)"
        for entry in clauses.values()
        if entry["level"] == Level.MUST.value
        and entry["verdict"] in _GREEN
        and entry["counts"].get(Verdict.REFUSED.value)
    ]
    if red or subject["verdict"] != Conclusion.CERTIFIED.value:
        raise CertificateError(f"{file}: {path} is {subject['verdict']}: {', '.join(red) or 'see its verdict'}")
    try:
        now = model_hash(path) if subject.get("kind") == MODEL else source_hash(path, subject["recipe"])
    except Exception as error:
        raise CertificateError(f"{file}: {path} cannot be imported to compare it: {error}") from error
    if now != subject["source_sha256"]:
        raise CertificateError(f"{file}: {path} has changed since it was certified. Certify again.")
