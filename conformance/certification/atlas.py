"""The table of all architectures as Markdown, from what a run with ``--resume`` keeps:

lora-compat certify-model all --resume results/
python -m conformance.certification.atlas results/ baselines/models-vllm-0.33.0.json docs/results/models-0.33.0.md
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from conformance.certification.baseline import Baseline
from conformance.contract import CONTRACT
from conformance.implementations.vllm.runtime import installed_version
from conformance.judging.verdicts import ClauseResult, Verdict
from conformance.subjects.models.checkpoints import offer_of
from conformance.subjects.models.types import ModelTarget, everything
from strategies.models.configs import ConfigChoices

CLAUSES = tuple(clause for clause, entry in CONTRACT.items() if entry.chapter == "MODEL")
_MARKS = {
    Verdict.PASS: "pass",
    Verdict.FAIL: "**fail**",
    Verdict.REFUSED: "refused",
    Verdict.NOT_EXERCISED: "–",
    Verdict.NOT_APPLICABLE: "n/a",
    Verdict.ERROR: "error",
}
_NOT_REACHED = "not reached in this run"
Results = Mapping[str, Mapping[str, ClauseResult]]  # by architecture and clause


def read(folder: Path) -> Results:
    """What is kept in a folder."""
    found: dict[str, dict[str, ClauseResult]] = defaultdict(dict)
    for file in sorted(folder.glob("*.json")):
        result = ClauseResult.from_dict(json.loads(file.read_text(encoding="utf-8")))
        found[result.target][result.clause] = result
    return found


def page(results: Results, targets: Mapping[str, ModelTarget], reasons: Mapping[str, str], known: Baseline) -> str:
    """The whole page."""
    judged = {name: results[name] for name in targets if any(map(_says_something, results.get(name, {}).values()))}
    out = dict(reasons) | {name: _reason(results.get(name, {})) for name in targets if name not in judged}
    lines = [f"# Models of vLLM {installed_version()}", "", *_head(judged, out), ""]
    lines += [f"| architecture | can be adapted | {' | '.join(CLAUSES)} | cause |", "|" + "---|" * (len(CLAUSES) + 3)]
    lines += [_row(name, of_name, targets[name], known) for name, of_name in judged.items()]
    lines += ["", "## What fails", "", *_failures(judged, known)]
    lines += ["", "## Not applicable, or not reached", ""]
    for reason, names in _by_reason(out).items():
        lines.append(f"- {reason} ({len(names)}): {', '.join(names)}")
    return "\n".join(lines) + "\n"


def _says_something(result: ClauseResult) -> bool:
    return result.verdict is not Verdict.NOT_APPLICABLE


def _reason(of_name: Mapping[str, ClauseResult]) -> str:
    """Why nothing was judged, as most cases have it."""
    if not of_name:
        return _NOT_REACHED
    said = sum((result.reasons for result in of_name.values()), Counter[str]())
    return said.most_common(1)[0][0].removeprefix("not applicable: ") if said else "no case was drawn"


def _head(judged: Results, out: Mapping[str, str]) -> list[str]:
    failing = [name for name, of_name in judged.items() if any(one.failures for one in of_name.values())]
    broken = [name for name, of_name in judged.items() if any(one.errors for one in of_name.values())]
    late = sum(reason == _NOT_REACHED for reason in out.values())
    cases = sum(one.cases for of_name in judged.values() for one in of_name.values())
    return [
        f"{len(judged) + len(out)} architectures of the registry declare LoRA support, or are served by a class that "
        f"does. {len(judged)} were judged, in {cases} cases: {len(failing)} break a clause of chapter MODEL, "
        f"{len(judged) - len(set(failing) | set(broken))} break none. {len(out) - late} are not applicable, for the "
        f"reasons at the end, and {late} were not reached.",
        "",
        "Every clause is run on the plainest configuration with everything adapted at once, and on drawn ones. *–* is "
        "*not exercised*: what the clause presumes is wrong already, or nothing of what was drawn is served. "
        "A pass of few cases is no promise of more.",
    ]


def _row(name: str, of_name: Mapping[str, ClauseResult], target: ModelTarget, known: Baseline) -> str:
    verdicts = [_MARKS[of_name[clause].verdict] if clause in of_name else "not run" for clause in CLAUSES]
    links = known.links(name)
    failures = (one for result in of_name.values() for one in result.failures)
    causes = dict.fromkeys(_number(links.get(one.key, "")) for one in failures)
    return f"| {name} | {_adaptable(target)} | {' | '.join(verdicts)} | {', '.join(causes)} |"


def _adaptable(target: ModelTarget) -> str:
    try:
        offer = offer_of(target, ConfigChoices())
    except Exception as error:  # of transformers
        return f"not known: {type(error).__name__}"
    return " ".join(dict.fromkeys(one for one in (*offer.modules, *offer.parameters)))


def _number(link: str) -> str:
    found = re.search(r"findings/(\d+)_", link)
    return f"[{found.group(1)}](../{link.partition('docs/')[2]})" if found else link or "open"


def _failures(judged: Results, known: Baseline) -> Iterator[str]:
    for name, of_name in judged.items():
        links = known.links(name)
        for result in of_name.values():
            for one in result.failures:
                number = _number(links.get(one.key, ""))
                yield f"- {name}, {one.clause}, *{one.anomaly}* ({number}): {' '.join(one.message.split())}"
            for error in result.errors[:1]:
                yield f"- {name}, {result.clause}, error: {' '.join(error.split())[:300]}"


def _by_reason(out: Mapping[str, str]) -> Mapping[str, Sequence[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for name, reason in out.items():
        found[reason.replace(name, "it")].append(name)
    return dict(sorted(found.items(), key=lambda item: -len(item[1])))


def main(folder: str, baseline: str, output: str) -> None:
    """Writes the page."""
    targets, reasons = everything()
    Path(output).write_text(
        page(read(Path(folder)), targets, reasons, Baseline.read(Path(baseline))), encoding="utf-8"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
