"""What a folder of kept results says, by architecture and clause."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from conformance.certification import kept_results
from conformance.certification.baseline import Baseline
from conformance.judging.causes import finding_of
from conformance.judging.verdicts import ClauseResult, Failure, Verdict, summed

OfName = Mapping[str, ClauseResult]  # one architecture's, by clause
_FOLDER = re.compile(r"\S*/lora-compat-\S+")
_URL = re.compile(r"https?://\S+")


@dataclass(frozen=True, slots=True)
class Links:
    """Where known failures are explained, as the pages of a folder link them."""

    known: Baseline
    folder: str = ".."  # from the page to docs/

    def of(self, name: str, failure: Failure) -> str:
        """The finding's number as a link, any other link as it is, ``open`` for none."""
        link = self.known.link(name, failure)
        number = finding_of(link)
        return f"[{number}]({self.folder}/{link.partition('docs/')[2]})" if number else link or "open"


def read(folder: Path) -> Mapping[str, OfName]:
    """What is kept in a folder, the shards of a clause added up."""
    found: dict[str, list[ClauseResult]] = defaultdict(list)
    for file in sorted(folder.glob("*.json")):
        result = ClauseResult.from_dict(kept_results.read(file))
        found[result.target].append(result)
    return {name: summed(shards) for name, shards in found.items()}


def releases(folder: Path) -> set[str]:
    """The releases of vLLM that kept results are of."""
    states = (kept_results.read(file).get("state", {}) for file in folder.glob("*.json"))
    return {state["vllm"] for state in states if "vllm" in state}


def judged(of_name: OfName) -> bool:
    """Whether any case was one that clauses say something of."""
    return any(one.verdict not in (Verdict.NOT_APPLICABLE, Verdict.NOT_EXERCISED) for one in of_name.values())


def fails(of_name: OfName) -> bool:
    """Whether a clause is broken."""
    return any(one.failures for one in of_name.values())


def counted(results: Iterable[ClauseResult]) -> Counter[str]:
    """The cases of several clauses, by outcome."""
    return sum((one.counts for one in results), Counter[str]())


def reasons(results: Iterable[ClauseResult]) -> Counter[str]:
    """Why cases of several clauses were not judged, or refused."""
    return sum((one.reasons for one in results), Counter[str]())


def plain(text: str) -> str:
    """One line, without folders of a machine and addresses."""
    said = " ".join(text.split()).partition(" If you were")[0]
    return _URL.sub("...", _FOLDER.sub("CHECKPOINT", said))
