"""The reference on every model that can be built: ``python -m benchmarks.reference_models``, into docs/results.

Runs ``lora-compat certify-model --impl reference`` on some architectures at a time and keeps each certificate, so a
run that was broken off goes on where it was; ``--page`` alone writes the page from what there is.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import lora_compat
from conformance.certification.atlas import CLAUSES
from conformance.subjects.models.types import everything
from lora_compat.checkpoint_map import NotMovedError
from lora_compat.errors import (
    AdapterFormatError,
    AmbiguousAdapterError,
    UnknownModulesError,
    UnservedFeatureError,
)
from lora_compat.mapped import NotServedError

PAGE = Path("docs/results/models-reference.md")
KEPT = Path(".lora_compat/reference-models")
REFUSALS: dict[str, type[lora_compat.LoRAError]] = {
    kind.__name__: kind
    for kind in (
        UnservedFeatureError,
        UnknownModulesError,
        NotServedError,
        NotMovedError,
        AmbiguousAdapterError,
        AdapterFormatError,
    )
}
_KIND = re.compile(r"refused: by name \((\w+)\)")
Subject = Mapping[str, Any]


def certify(left: Sequence[str], examples: int, at_a_time: int) -> None:
    """Certifies some at a time; a type that ends its worker or hangs is an error of its own there."""
    KEPT.mkdir(parents=True, exist_ok=True)
    for some in (left[start : start + at_a_time] for start in range(0, len(left), at_a_time)):
        file = KEPT / f"{some[0]}-{len(some)}.json"
        command = [sys.executable, "-m", "conformance.cli", "certify-model", *some, "--impl", "reference"]
        with tempfile.TemporaryDirectory() as regressions:
            command += ["--max-examples", str(examples), "--certificate", str(file)]
            subprocess.run([*command, "--write-regressions", regressions], stdout=subprocess.DEVNULL, check=False)
        print(f"{some[0]} to {some[-1]}: {'certified' if file.exists() else 'no certificate'}", flush=True)


def documents() -> list[dict[str, Any]]:
    """The certificates that there are, the oldest first."""
    files = sorted(KEPT.glob("*.json"), key=lambda file: file.stat().st_mtime)
    return [json.loads(file.read_text(encoding="utf-8")) for file in files]


def subjects(made: Iterable[Mapping[str, Any]]) -> list[Subject]:
    """What the newest of some certificates says of each architecture."""
    return list({subject["class"]: subject for document in made for subject in document["subjects"]}.values())


def page(made: Sequence[Mapping[str, Any]], targets: Sequence[str], unbuilt: int) -> str:
    """The page of some certificates; ``targets`` can be built, ``unbuilt`` more architectures cannot."""
    found = subjects(made)
    vllm = made[0]["environment"].get("vllm", "")
    verdicts = Counter(_verdict(one) for one in found)
    several = {str(document["run"]["cases_per_clause"]) for document in made}
    examples = " or ".join(sorted(several))
    several = several if len(several) > 1 else set()
    lines = [
        f"# Whole models on the reference, vLLM {vllm}",
        "",
        "Written by `python -m benchmarks.reference_models`: `lora-compat certify-model --impl reference`, "
        f"{examples} cases a clause, on every architecture with LoRA support. The reference is told nothing of a "
        "model: its [map](../checkpoint-map.md) is learned.",
        "",
        f"Of {len(targets) + unbuilt} architectures {len(targets)} can be built into a checkpoint here "
        "(`python -m benchmarks.model_types` says why the others cannot):",
        "",
        *(f"- {count} {verdict}" for verdict, count in verdicts.most_common()),
        *([f"- {len(targets) - len(found)} not run yet"] if len(found) < len(targets) else []),
        "",
        *_told_otherwise(found),
        *(
            ["The certificates are of several runs, the earlier ones of earlier states of the library.", ""]
            if several
            else []
        ),
        "*Certified in part*: every case that is served is right; some adapters, maybe all that a clause has drawn, "
        "are refused by name:",
        "",
        "| refused as | cases | architectures | what that is |",
        "|---|---|---|---|",
        *_refusals(found),
        "",
    ]
    bad = [one for one in found if _verdict(one) in ("not certified", "error")]
    lines += ["Not certified:", "", *(f"- `{one['class']}`: {_why(one)}" for one in bad), ""] if bad else []
    unserved = [one for one in found if _verdict(one) == "not applicable"]
    lines += ["Base models that vLLM does not serve on a CPU here, adapters or not:", ""] if unserved else []
    lines += [f"- `{one['class']}`: {_unserved(one)}" for one in unserved]
    lines += ["", "| architecture | verdict | cases right | refused |", "|---|---|---|---|"]
    for one in sorted(found, key=lambda one: str(one["class"])):
        counts = _counts(one)
        lines.append(f"| `{one['class']}` | {_verdict(one)} | {counts['pass']} | {counts['refused']} |")
    return "\n".join(lines) + "\n"


def _of_models(subject: Subject) -> list[Mapping[str, Any]]:
    return [one for one in subject["clauses"] if one["id"] in CLAUSES]


def _counts(subject: Subject) -> Counter[str]:
    total: Counter[str] = Counter()
    for clause in _of_models(subject):
        total.update(clause["counts"])
    return total


def _verdict(subject: Subject) -> str:
    """That of the certificate; one of whose cases none could be run is of nothing."""
    clauses = _of_models(subject)
    if any(one["errors"] for one in clauses):
        return "error"
    if not any(one["failures"] for one in clauses) and not _counts(subject)["pass"]:
        return "not applicable" if not _counts(subject)["refused"] else "refused"
    if not any(one["failures"] for one in clauses):
        return "certified in part" if _counts(subject)["refused"] else "certified"
    return "not certified"


def _told_otherwise(found: Iterable[Subject]) -> list[str]:
    """Architectures whose certificate has a harder verdict than this page, which goes by cases and not by clauses."""
    harder = [one for one in found if _verdict(one).startswith("certified") and one["verdict"] == "not certified"]
    if not harder:
        return []
    names = ", ".join(f"`{one['class']}`" for one in harder)
    said = "are called *not certified* by their certificates, as no case of some clause was served"
    return [f"{len(harder)} of those that are certified here {said}: {names}.", ""]


def _refusals(found: Iterable[Subject]) -> Iterator[str]:
    cases: Counter[str] = Counter()
    where: defaultdict[str, set[str]] = defaultdict(set)
    for subject in found:
        for clause in _of_models(subject):
            for reason, count in clause["reasons"].items():
                match = _KIND.match(reason)
                if match:
                    cases[match[1]] += count
                    where[match[1]].add(subject["class"])
    for kind, count in cases.most_common():
        told = (REFUSALS[kind].__doc__ or "").strip().partition("\n")[0] if kind in REFUSALS else "not expected"
        yield f"| {kind} | {count} | {len(where[kind])} | {told} |"


def _why(subject: Subject) -> str:
    for clause in _of_models(subject):
        for failure in clause["failures"]:
            return f"{failure['anomaly']} in {clause['id']}: {_short(failure['message'])}"
        for error in clause["errors"]:
            return f"error in {clause['id']}: {_short(error)}"
    return "?"


def _unserved(subject: Subject) -> str:
    reasons = Counter[str]()
    for clause in _of_models(subject):
        reasons.update(clause["reasons"])
    return _short(reasons.most_common(1)[0][0].partition(": ")[2]) if reasons else "no case"


def _short(text: str) -> str:
    plain = re.sub(r"\S*/lora-compat-\S+", "CHECKPOINT", " ".join(text.split()).partition(" If you were")[0])
    return re.sub(r"https?://\S+", "...", plain)[:200]


def main() -> None:
    """Certifies, and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="architectures (default: all that were not run yet)")
    parser.add_argument("--max-examples", type=int, default=4)
    parser.add_argument("--at-a-time", type=int, default=16)
    parser.add_argument("--page", action="store_true", help="only write the page")
    arguments = parser.parse_args()
    targets, reasons = everything()
    if not arguments.page:
        there = {one["class"] for one in subjects(documents())}
        left = arguments.names or [name for name in targets if name not in there]
        certify(left, arguments.max_examples, arguments.at_a_time)
    PAGE.write_text(page(documents(), list(targets), len(reasons)), "utf-8")


if __name__ == "__main__":
    main()
