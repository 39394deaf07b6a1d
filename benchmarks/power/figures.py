"""The figures of docs/results/power.md that sum up what was measured of the planted bugs."""

from __future__ import annotations

from statistics import median
from typing import Any

from benchmarks.power.planted import PLANTED
from tests.mutants import MUTANTS as LAYERS
from tests.mutants.planting import Mutant

Row = dict[str, Any]
BY_NAME = {mutant.name: mutant for mutant in PLANTED}


def summary(data: dict[str, Any]) -> dict[str, Any]:
    """The figures that matter, by name."""
    rows, shrunk = data["hunts"], data["names"]
    hunts = [count for row in rows for count in row["cases"]]
    medians = [median_cases(row, data) for row in rows]
    layers = {mutant.name for mutant in LAYERS}
    return {
        "mutants": len(rows),
        "caught": sum(any(row["cases"]) for row in rows),
        "hunts": len(hunts),
        "hunts caught": sum(count > 0 for count in hunts),
        "median": median(medians),
        "slowest": max(medians),
        "in order": median([median(row["in_order"]) for row in rows if row["in_order"]]),
        "slowest in order": max(max(row["in_order"]) for row in rows if row["in_order"]),
        "milliseconds": 1000 * median([median(row["seconds"]) for row in rows if row["seconds"]]),
        "named at once": sum(map(share_named, rows)) / len(rows),
        "elements": median([row["elements"] for row in shrunk if row["elements"] is not None]),
        "replayed": sum(row.get("replayed", 0) for row in shrunk),
        "alarms": sum(len(row.get("alarms", ())) for row in shrunk),
        "named": sum(map(is_named, shrunk)),
        "layers": sum(row["mutant"] in layers for row in shrunk),
        "named of layers": sum(row["mutant"] in layers and is_named(row) for row in shrunk),
        "named first": sum(row["reported"][:1] != [] and row["reported"][0] in right(row) for row in shrunk),
    }


def right_names(mutant: Mutant) -> set[str]:
    """The names that tell what is wrong; `unexplained` is none, though nothing better may be known of a bug."""
    return set(mutant.anomalies) - {"unexplained"}


def right(row: Row) -> set[str]:
    """The right names of the bug of a row."""
    return right_names(BY_NAME[row["mutant"]])


def is_named(row: Row) -> bool:
    """Whether a right name is among those reported."""
    return bool(set(row["reported"]) & right(row))


def median_cases(row: Row, data: dict[str, Any]) -> float:
    """The cases to the first failure; one more than there were where a seed does not catch the bug."""
    return float(median(count or data["cases"] + 1 for count in row["cases"]))


def share_named(row: Row) -> float:
    """Of the first failing cases of a row the share with a right name."""
    names = row["names"]
    return sum(name in right(row) for name in names) / len(names) if names else 0.0
