"""The zoo's results as Markdown, from certificates: ``python -m conformance.certification.zoo.page CERT... HEAD``."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_GREEN = ("pass", "not applicable")


def page(documents: Sequence[Mapping[str, Any]], told: str) -> str:
    """A table of classes by certificate, and a section for each class that the first one does not certify."""
    head = ["class", "family", *(f"wrapped by {_impl(document)}" for document in documents)]
    lines = [told.rstrip(), "", f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    subjects = [{one["class"]: one for one in document["subjects"]} for document in documents]
    for path, subject in subjects[0].items():
        cells = [f"[`{_name(path)}`](#{_anchor(path)})", subject["family"] or "?"]
        cells += [_cell(each[path]) for each in subjects]
        lines.append(f"| {' | '.join(cells)} |")
    for path in subjects[0]:
        lines += _section(path, {_impl(one): each[path] for one, each in zip(documents, subjects, strict=True)})
    return "\n".join(lines) + "\n"


def _section(path: str, by_impl: Mapping[str, Mapping[str, Any]]) -> list[str]:
    lines = ["", f"## {_name(path)}", "", f"`{path}`"]
    for impl, subject in by_impl.items():
        lines += ["", f"Wrapped by {impl}: **{subject['verdict']}**.", ""]
        if subject["unfit"]:
            lines.append(subject["unfit"])
        for anomaly, message, clauses, on_base in _kinds(subject):
            whose = "; the family's base class has it too" if on_base else ""
            lines.append(f"- **{anomaly}** in {', '.join(clauses)}{whose}: `{_said(message)}`")
        for reason, clauses in _unexercised(subject):
            lines.append(f"- {', '.join(clauses)} {reason}")
    return lines


def _said(message: str) -> str:
    """On one line, without addresses and folders, which differ from machine to machine."""
    return re.sub(r" at 0x[0-9a-f]+|/\S*/(?=[^/\s]+\.py)", "", " ".join(message.split()))


def _kinds(subject: Mapping[str, Any]) -> list[tuple[str, str, list[str], bool]]:
    """Failures by anomaly, those first that are the class's own."""
    found: dict[tuple[str, bool], tuple[str, list[str]]] = {}
    for clause in subject["clauses"]:
        for failure in clause["failures"]:
            key = (failure["anomaly"], bool(failure["on_base"]))
            found.setdefault(key, (failure["message"], []))[1].append(clause["id"])
    return [(key[0], *found[key], key[1]) for key in sorted(found, key=lambda key: key[1])]


def _unexercised(subject: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    found: dict[str, list[str]] = {}
    for clause in subject["clauses"]:
        if clause["level"] == "MUST" and clause["verdict"] not in (*_GREEN, "fail"):
            reason = max(clause["reasons"], key=clause["reasons"].get, default=clause["verdict"])
            found.setdefault(reason.replace(f"what {clause['id']} is", "what the clause is"), []).append(clause["id"])
    return list(found.items())


def _cell(subject: Mapping[str, Any]) -> str:
    if subject["verdict"] == "certified":
        return "certified"
    failed = [clause for clause in subject["clauses"] if clause["verdict"] == "fail"]
    own = [one["id"] for one in failed if not all(failure["on_base"] for failure in one["failures"])]
    shared = len(failed) - len(own)
    others = sum(1 for one in subject["clauses"] if one["level"] == "MUST" and one["verdict"] not in (*_GREEN, "fail"))
    said = [f"fails {', '.join(own)}"] if own else []
    said += [f"{shared} shared with its base class"] if shared else []
    said += [f"{others} refused or in vain"] if others else []
    return "; ".join(said)


def _impl(document: Mapping[str, Any]) -> str:
    implementation: str = document["environment"]["identity.implementation"]
    return implementation.replace(" (lora_compat uninstalled)", "")


def _name(path: str) -> str:
    module, _, name = path.partition(":")
    return f"{name} ({module.rpartition('.')[2]})"


def _anchor(path: str) -> str:
    return _name(path).lower().replace(" ", "-").replace("(", "").replace(")", "")


if __name__ == "__main__":
    *files, told = sys.argv[1:]
    certificates = [json.loads(Path(file).read_text(encoding="utf-8")) for file in files]
    print(page(certificates, Path(told).read_text(encoding="utf-8")), end="")
