"""The zoo's results as Markdown: a page with all classes, and a page for each that is not certified.

    python -m benchmarks.zoo CERT... docs/results/zoo-0.33.0

The folder has ``head.md``, the page's beginning, and ``reproduced.txt``, what its ``reproduce.py`` printed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.zoo.findings import shown_by
from conformance.certification.outcome import Conclusion
from conformance.certification.phrases import share
from conformance.judging.facts import Sighting

_GREEN = ("pass", "not applicable")
_CERTIFIED, _IN_PART = Conclusion.CERTIFIED.value, Conclusion.IN_PART.value


def page(documents: Sequence[Mapping[str, Any]], told: str, folder: str) -> str:
    """What is ``told``, and a table of classes by certificate with links to the classes' own pages in ``folder``."""
    head = ["class", "family", *(f"wrapped by {_impl(document)}" for document in documents)]
    lines = [told.rstrip(), "", f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    subjects = [{one["class"]: one for one in document["subjects"]} for document in documents]
    for path, subject in subjects[0].items():
        cells = [f"[`{_name(path)}`]({folder}/{_file(path)})", subject["family"] or "?"]
        cells += [_cell(each[path]) for each in subjects]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def class_page(path: str, documents: Sequence[Mapping[str, Any]], reproduced: str) -> str:
    """What each certificate says of the class at ``path``, and how to see it with nothing but vLLM."""
    lines = [f"# {_name(path)}", "", f"`{path}`"]
    for document in documents:
        subject = next(one for one in document["subjects"] if one["class"] == path)
        lines += ["", f"Wrapped by {_impl(document)}: **{subject['verdict']}**.", ""]
        if subject["unfit"]:
            lines.append(subject["unfit"])
        for anomaly, sighting, clauses, on_base in _kinds(subject):
            whose = "; the family's base class has it too" if on_base else ""
            said = " ".join(str(sighting).split())
            lines.append(f"- **{anomaly}** in {', '.join(clauses)}{whose}: `{said}`{shown_by(anomaly, sighting.fact)}")
        for reason, clauses in _unexercised(subject):
            lines.append(f"- {', '.join(clauses)} {reason}")
        lines += [f"- In part: {', '.join(refused)}" for refused in [_refused(subject)] if refused]
    return "\n".join([*lines, *_reproduction(path, reproduced)]) + "\n"


def _reproduction(path: str, reproduced: str) -> list[str]:
    """The command for this class, and what it printed; a class whose name another one has is told by its module."""
    module, _, name = path.partition(":")
    for line in reproduced.splitlines():
        given = line.partition(" TP 1:")[0].strip()
        where, _, cls = given.rpartition(" ")
        if cls == name and (not where or where in module):
            command = f'python reproduce.py "{given}"'
            said = ["", "With nothing but vLLM, one adapter for each shard, sharding off:", "", f"    $ {command}"]
            return [*said, f"    {' '.join(line.split())}", "", _SHARED]
    return []


_SHARED = "What the family's base class has too is reproduced in [the findings](../../findings/README.md)."


def _kinds(subject: Mapping[str, Any]) -> list[tuple[str, Sighting, list[str], bool]]:
    """Failures by anomaly, those first that are the class's own."""
    found: dict[tuple[str, bool], tuple[Sighting, list[str]]] = {}
    for clause in subject["clauses"]:
        for failure in clause["failures"]:
            key = (failure["anomaly"], bool(failure["on_base"]))
            found.setdefault(key, (Sighting.from_dict(failure["seen"]), []))[1].append(clause["id"])
    return [(key[0], *found[key], key[1]) for key in sorted(found, key=lambda key: key[1])]


def _unexercised(subject: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    found: dict[str, list[str]] = {}
    for clause in subject["clauses"]:
        if clause["level"] == "MUST" and clause["verdict"] not in (*_GREEN, "fail"):
            reason = max(clause["reasons"], key=clause["reasons"].get, default=clause["verdict"])
            found.setdefault(reason.replace(f"what {clause['id']} is", "what the clause is"), []).append(clause["id"])
    return list(found.items())


def _refused(subject: Mapping[str, Any]) -> list[str]:
    """The share of refused cases of each MUST clause that passes in the others."""
    return [
        f"{one['id']} refused in {share(one['counts'])}"
        for one in subject["clauses"]
        if one["level"] == "MUST" and one["verdict"] == "pass" and one["counts"].get("refused")
    ]


def _cell(subject: Mapping[str, Any]) -> str:
    if subject["verdict"] in (_CERTIFIED, _IN_PART):
        return ": ".join(filter(None, [subject["verdict"], ", ".join(_refused(subject))]))
    failed = [clause for clause in subject["clauses"] if clause["verdict"] == "fail"]
    own = [one["id"] for one in failed if not all(failure["on_base"] for failure in one["failures"])]
    shared = len(failed) - len(own)
    rest = [one["verdict"] for one in subject["clauses"] if one["level"] == "MUST"]
    errors = rest.count("error")
    others = len([verdict for verdict in rest if verdict not in (*_GREEN, "fail", "error")])
    said = [f"fails {', '.join(own)}"] if own else []
    said += [f"{shared} shared with its base class"] if shared else []
    said += [f"{others} refused or in vain"] if others else []
    said += [f"{errors} in error"] if errors else []
    return "; ".join(said)


def _impl(document: Mapping[str, Any]) -> str:
    implementation: str = document["environment"]["identity.implementation"]
    return implementation


def _name(path: str) -> str:
    module, _, name = path.partition(":")
    return f"{name} ({module.rpartition('.')[2]})"


def _file(path: str) -> str:
    module, _, name = path.partition(":")
    return f"{'-'.join((*module.split('.')[-2:], name))}.md"


def main(files: Sequence[str], folder: Path) -> None:
    """Writes the pages beside and into ``folder``."""
    documents = [json.loads(Path(file).read_text(encoding="utf-8")) for file in files]
    told, reproduced = ((folder / name).read_text(encoding="utf-8") for name in ("head.md", "reproduced.txt"))
    folder.with_name(f"{folder.name}.md").write_text(page(documents, told, folder.name), encoding="utf-8")
    for subject in documents[0]["subjects"]:
        file = folder / _file(subject["class"])
        file.write_text(class_page(subject["class"], documents, reproduced), encoding="utf-8")


if __name__ == "__main__":
    *certificates, target = sys.argv[1:]
    main(certificates, Path(target))
