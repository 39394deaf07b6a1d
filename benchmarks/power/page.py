"""docs/results/power.md: what was measured, in tables."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from statistics import median
from typing import Any

from benchmarks.power.ablations import ABLATIONS
from benchmarks.power.engines import peft_section
from benchmarks.power.figures import BY_NAME, Row, is_named, median_cases, right, summary
from benchmarks.power.measuring import by_mutant
from benchmarks.power.plot import curves
from benchmarks.power.seam import seam_section
from benchmarks.power.sight import table
from tests.mutants.variants import VARIANTS

PEER = "random values only"  # misses too many to list


def page(data: dict[str, Any]) -> str:
    """The page as Markdown."""
    parts = (_summary, _ideas, _sight, _names, _alarms, _equivalent, _pairs, _mutants, peft_section, seam_section)
    return "\n".join(line for part in parts for line in part(data)) + "\n"


def _summary(data: dict[str, Any]) -> Iterator[str]:
    found = summary(data)
    yield "# Detection power"
    yield ""
    made = data["made"]["hunts"]
    yield (
        f"Written by `make power` (`python -m benchmarks.power`). The hunts: torch {made['torch']}, {data['cases']} "
        f"cases a clause (the default profile), seeds a bug: {made['seeds']}, {_on(made)}. The "
        "planted bugs are those of the reference; the kernels' (`tests/kernels`) and those in vLLM's own code "
        f"(`tests/mutants/vllm_planted.py`) are caught by tests of their own. {_shrunk_at(data)}"
    )
    yield ""
    yield "| | |"
    yield "|---|---|"
    yield f"| planted bugs that change what an implementation does | {found['mutants']} |"
    yield f"| caught by a clause that is said to notice them | {found['caught']} |"
    yield f"| hunts (bug × seed) that caught it in one default run | {found['hunts caught']} of {found['hunts']} |"
    yield f"| cases to the first failure, median over bugs of the median over seeds | {found['median']:g} |"
    yield f"| the slowest bug's median | {found['slowest']:g} |"
    order = f"{found['in order']:g}, {found['slowest in order']}"
    yield f"| the same over the whole suite in file order: median, most of any seed | {order} |"
    yield f"| milliseconds to the first failure, median | {found['milliseconds']:.0f} |"
    yield f"| numbers in the shrunk case, median | {found['elements']:g} |"
    yield f"| shrunk cases replayed on the reference without the bug | {found['replayed']} |"
    yield f"| … and it is called wrong there | {found['alarms']} |"
    yield f"| bugs with a right name among those reported | {found['named']} of {len(data['names'])} |"
    yield f"| … of those of single layers | {found['named of layers']} of {found['layers']} |"
    yield f"| … and it is the one reported first | {found['named first']} of {len(data['names'])} |"
    yield f"| first failing cases, not shrunk, with a right name | {found['named at once']:.0%} |"
    yield ""
    yield (
        "“Cases to the first failure” are those drawn of the clause that notices the bug soonest, of the one to three "
        "that the bug's record names, as clauses run side by side. “In file order” puts the full budget of every "
        "earlier clause before it, as `pytest -x` on one worker would. A hunt that catches nothing counts as one case "
        "more than there were. A case counts only if what its clause presumes is served, as in the suite. Clauses and "
        "right names were written down with the bugs and corrected after first measurements; `unexplained` is never "
        "counted as a right name."
    )
    yield ""
    yield "![planted bugs caught over cases drawn](power.svg)"


def _shrunk_at(data: dict[str, Any]) -> str:
    counts = Counter(
        f"{row['commit']} (torch {row['torch']})" if "torch" in row else row["commit"] for row in data["names"]
    )
    told = ", ".join(f"{count} by commit {commit}" for commit, count in counts.items())
    return f"Names and numbers of shrunk cases are of one seed: {told}."


def _ideas(data: dict[str, Any]) -> Iterator[str]:
    yield ""
    yield "## What each idea is worth"
    yield ""
    yield (
        "The bugs of single layers, the same clauses and budget, one seed, an idea switched off, or one more on; "
        f"measured by commit {data['made']['ideas']['commit']}."
    )
    yield ""
    yield "| setting | caught | of | median cases of those caught | |"
    yield "|---|---|---|---|---|"
    stories = {ablation.name: ablation.story for ablation in ABLATIONS}
    for name, values in curves(data).items():
        caught = [value for value in values if value < math.inf]
        middle = f"{median(caught):g}" if caught else "–"
        yield f"| {name} | {len(caught)} | {len(values)} | {middle} | {stories[name]} |"
    yield ""
    void = [f"{row['setting']} ({', '.join(row['reported'])})" for row in data["settings"] if row["reported"]]
    yield (
        f"Void, because the setting reports the reference itself: {'; '.join(void)}."
        if void
        else "No setting reports the reference itself, so no catch is void."
    )
    yield (
        "The cases are small: a layer of seven inputs gives a constant tolerance little to hide behind, and what the "
        "exact integers catch alone is the last bit. What a constant tolerance accepts at 4096 inputs is not measured "
        "here."
    )
    yield ""
    for ablation in ABLATIONS[1:]:
        if ablation.name == PEER:
            continue
        only = [row["mutant"] for row in data["ideas"] if row["without"].get(ablation.name) == 0]
        yield f"- {ablation.name}, missed: {', '.join(f'`{name}`' for name in only) or 'nothing'}"


def _names(data: dict[str, Any]) -> Iterator[str]:
    yield ""
    yield "## Called by another name"
    yield ""
    wrong = [row for row in data["names"] if not is_named(row)]
    for row in wrong:
        called = ", ".join(row["reported"]) or "nothing at the first seed"
        yield f"- `{row['mutant']}`: {called}, not {' or '.join(sorted(right(row))) or 'any known name'}"
    if not wrong:
        yield "None."


def _on(made: dict[str, Any]) -> str:
    load = f" at load {made['load']:.0f}" if "load" in made else ""
    processes = "one process" if made["processes"] == 1 else f"{made['processes']} processes"
    return f"{made['seconds']:.0f} s of {processes}{load}, commit {made['commit']}"


def _alarms(data: dict[str, Any]) -> Iterator[str]:
    yield ""
    yield "## False alarms"
    yield ""
    yield "| what is right | runs | cases | drawn in vain | false alarms | of commit, with torch | process seconds |"
    yield "|---|---|---|---|---|---|---|"
    rows: dict[tuple[str, str], list[Row]] = {}
    for row in data["alarms"]:
        rows.setdefault((row["name"], f"{row['commit']}, {row['torch']}"), []).append(row)
    for (name, made), runs in rows.items():
        cases, vain, seconds = (sum(run[what] for run in runs) for what in ("cases", "vain", "seconds"))
        found = sum(len(run["found"]) for run in runs)
        yield f"| {name} | {len(runs)} | {cases} | {vain / cases:.2%} | {found} | {made} | {seconds:.0f} |"
    yield ""
    yield (
        "Each run has a seed of its own and draws all clauses. TF32 is emulated here and real in "
        "[gpu.md](gpu.md); undeclared, it is the planted bug `operands-of-ten-bits`."
    )
    for row in data["alarms"]:
        for found in row["found"]:
            yield f"- {row['name']}: {found}"


def _equivalent(data: dict[str, Any]) -> Iterator[str]:
    yield ""
    yield "## Equivalent mutants"
    yield ""
    yield "Changes that nothing may report, which is measured above, and why."
    yield ""
    for variant in VARIANTS:
        yield f"- `{variant.name}` ({variant.origin}). {variant.story}"


def _pairs(data: dict[str, Any]) -> Iterator[str]:
    pairs = data["pairs"]
    yield ""
    yield "## What is drawn"
    yield ""
    met, possible = sum(pairs["pairs"].values()), sum(pairs["possible"].values())
    yield (
        f"One default run draws {pairs['cases']} layer cases. Of {possible} pairs of values on two of the dimensions "
        f"below it meets {met} ({met / possible:.1%}); most of the rest exclude each other by what they mean."
    )
    yield ""
    yield "| dimension | values, with cases |"
    yield "|---|---|"
    for name, values in pairs["values"].items():
        yield f"| {name} | {', '.join(f'{value} {count}' for value, count in values.items())} |"
    yield ""
    yield "Pairs of values met, of those that two dimensions span:"
    yield ""
    names = list(pairs["values"])
    yield "| | " + " | ".join(names[1:]) + " |"
    yield "|---" * len(names) + "|"
    for row, name in enumerate(names[:-1]):
        cells = ["" for _ in names[1 : row + 1]]
        for other in names[row + 1 :]:
            key = f"{name} × {other}"
            met, possible = pairs["pairs"].get(key, 0), pairs["possible"][key]
            cells.append(f"{met}" if met == possible else f"{met}/{possible}")
        yield f"| {name} | " + " | ".join(cells) + " |"


def _mutants(data: dict[str, Any]) -> Iterator[str]:
    yield ""
    yield "## Every planted bug"
    yield ""
    yield "| bug | origin | caught by | cases, median (most) | seeds | ms | called | numbers |"
    yield "|---|---|---|---|---|---|---|---|"
    shrunk = by_mutant(data["names"])
    for row in data["hunts"]:
        yield _mutant(row, shrunk.get(row["mutant"], {}), data)


def _mutant(row: Row, shrunk: Row, data: dict[str, Any]) -> str:
    mutant = BY_NAME[row["mutant"]]
    caught = [count for count in row["cases"] if count]
    milliseconds = f"{1000 * median(row['seconds']):.0f}" if row["seconds"] else "–"
    numbers = shrunk.get("elements")
    cases = f"{median_cases(row, data):g} ({max(caught, default=0)})"
    return (
        f"| **{mutant.name}**: {mutant.story} | {mutant.origin} | {row['clause'] or '–'} | "
        f"{cases} | {len(caught)}/{len(row['cases'])} | {milliseconds} | "
        f"{', '.join(shrunk.get('reported', ()))} | {'–' if numbers is None else numbers} |"
    )


def _sight(data: dict[str, Any]) -> Iterator[str]:
    yield from table(data["sight"])
    yield ""
    yield f"{_on(data['made']['sight'])}."
