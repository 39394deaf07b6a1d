"""The page of all architectures: a row for each, what fails, what is refused as what, and what could not be judged."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from conformance.certification.atlas.differences import Differences
from conformance.certification.atlas.results import Links, OfName, counted, fails, judged, plain, reasons
from conformance.contract import MODEL_CLAUSES
from conformance.judging.verdicts import Verdict
from conformance.subjects.models.checkpoints import offer_of
from conformance.subjects.models.types import ModelTarget
from lora_compat.errors import LoRAError
from strategies.models.configs import ConfigChoices

_MARKS = {
    Verdict.PASS: "pass",
    Verdict.FAIL: "**fail**",
    Verdict.REFUSED: "refused",
    Verdict.NOT_EXERCISED: "–",
    Verdict.NOT_APPLICABLE: "n/a",
    Verdict.ERROR: "error",
}
_NOT_REACHED = "not reached in this run"
_BY_NAME = re.compile(r"refused: by name \((\w+)\)")


@dataclass(frozen=True, slots=True)
class Table:
    """The page of a run.

    ``targets`` can be built, ``unbuilt`` are the others, with the reason. Architectures in ``paged`` have a page of
    their own. An ``earlier`` run is compared with this one.
    """

    title: str
    results: Mapping[str, OfName]
    targets: Mapping[str, ModelTarget]
    unbuilt: Mapping[str, str]
    links: Links
    paged: Sequence[str] = ()
    earlier: Differences | None = None
    judged: Mapping[str, OfName] = field(init=False)

    def __post_init__(self) -> None:
        found = {name: self.results[name] for name in self.targets if judged(self.results.get(name, {}))}
        object.__setattr__(self, "judged", found)

    def text(self) -> str:
        """The whole page."""
        names = ("architecture", "can be adapted", *MODEL_CLAUSES, "right", "refused", "cause")
        lines = [f"# {self.title}", "", *self._head(), "", f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
        lines += [self._row(name, of_name) for name, of_name in self.judged.items()]
        for title, found in (("What fails", self._failures()), ("What is refused by name", self._refusals())):
            listed = list(found)
            lines += ["", f"## {title}", "", *listed] if listed else []
        if self.earlier:
            lines += ["", f"## Changed since {self.earlier.title}", "", *self.earlier.lines(self.judged)]
        lines += ["", "## Not applicable, or not reached", "", *self._left_out()]
        return "\n".join(lines) + "\n"

    def _head(self) -> list[str]:
        out = self._reasons()
        late = sum(reason == _NOT_REACHED for reason in out.values())
        broken = [name for name, of_name in self.judged.items() if fails(of_name)]
        errors = [name for name, of_name in self.judged.items() if any(one.errors for one in of_name.values())]
        keep = [name for name in self.judged if name not in broken + errors]
        in_part = [name for name in keep if counted(self.judged[name].values())[Verdict.REFUSED.value]]
        cases = sum(one.cases for of_name in self.judged.values() for one in of_name.values())
        return [
            f"{len(self.judged) + len(out)} architectures of vLLM's registry declare LoRA support, or are served by a "
            f"class that does. {len(self.judged)} were judged, in {cases} cases: {len(broken)} break a clause of "
            f"chapter MODEL, {len(keep)} break none, of which {len(in_part)} refuse some adapters by name; "
            f"{len(set(errors) - set(broken))} more end in an error. "
            f"{len(out) - late} are not applicable, for the reasons at the end, and {late} were not reached.",
            "",
            "Every clause is run on the plainest configuration with everything adapted at once, and on drawn ones. "
            "*–* is *not exercised*: what the clause presumes is wrong already, or nothing of what was drawn is "
            "served. A pass of few cases is no promise of more. *right* and *refused* are cases.",
        ]

    def _row(self, name: str, of_name: OfName) -> str:
        verdicts = [_MARKS[of_name[clause].verdict] if clause in of_name else "not run" for clause in MODEL_CLAUSES]
        counts = counted(of_name.values())
        failures = (one for result in of_name.values() for one in result.failures)
        causes = ", ".join(dict.fromkeys(self.links.of(name, one) for one in failures))
        shown = f"[{name}](models/{name}.md)" if name in self.paged else name
        sums = (str(counts[verdict.value]) for verdict in (Verdict.PASS, Verdict.REFUSED))
        return f"| {' | '.join((shown, _adaptable(self.targets[name]), *verdicts, *sums, causes))} |"

    def _failures(self) -> Iterator[str]:
        for name, of_name in self.judged.items():
            for result in of_name.values():
                for one in result.failures:
                    said = plain(one.message)[:300]
                    yield f"- {name}, {one.clause}, *{one.anomaly}* ({self.links.of(name, one)}): {said}"
                for error in result.errors[:1]:
                    yield f"- {name}, {result.clause}, error: {plain(error)[:300]}"

    def _refusals(self) -> Iterator[str]:
        cases: Counter[str] = Counter()
        where: defaultdict[str, set[str]] = defaultdict(set)
        for name, of_name in self.judged.items():
            for reason, count in reasons(of_name.values()).items():
                kind = _BY_NAME.match(reason)
                if kind:
                    cases[kind[1]] += count
                    where[kind[1]].add(name)
        if cases:
            yield from ("| refused as | cases | architectures | what that is |", "|---|---|---|---|")
        told = {kind.__name__: (kind.__doc__ or "").strip().partition("\n")[0] for kind in _kinds(LoRAError)}
        for one, count in cases.most_common():
            yield f"| {one} | {count} | {len(where[one])} | {told.get(one, '')} |"

    def _reasons(self) -> dict[str, str]:
        """Why nothing was judged, as most cases have it."""
        found = dict(self.unbuilt)
        for name in self.targets:
            if name not in self.judged:
                said = reasons(self.results.get(name, {}).values()).most_common(1)
                why = said[0][0].removeprefix("not applicable: ") if said else "no case was drawn"
                found[name] = why if name in self.results else _NOT_REACHED
        return found

    def _left_out(self) -> Iterator[str]:
        found: dict[str, list[str]] = defaultdict(list)
        for name, reason in self._reasons().items():
            found[plain(reason)[:300].replace(name, "it")].append(name)
        for reason, names in sorted(found.items(), key=lambda item: -len(item[1])):
            yield f"- {reason} ({len(names)}): {', '.join(names)}"


def _adaptable(target: ModelTarget) -> str:
    try:
        offer = offer_of(target, ConfigChoices())
    except Exception as error:  # of transformers
        return f"not known: {type(error).__name__}"
    return " ".join(dict.fromkeys((*offer.modules, *offer.parameters)))


def _kinds(kind: type[LoRAError]) -> Iterator[type[LoRAError]]:
    yield kind
    for one in kind.__subclasses__():
        yield from _kinds(one)
