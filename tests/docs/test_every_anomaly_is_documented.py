"""docs/anomalies.md lists the names that the suite gives, and no others."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Where a name is given: a violation, an argument, or a mistake with what it would have been.
GIVEN = re.compile(
    r"""(?:Violation\(\s*|anomaly=|default=|yield\s*\(?\s*|return |names\.add\(\s*)"([a-z]+(?:-[a-z]+)*)\""""
)


def documented() -> set[str]:
    rows = [line.split("|")[1] for line in (ROOT / "docs/anomalies.md").read_text().splitlines() if "| `" in line]
    return {name for row in rows for name in re.findall(r"`([a-z-]+)`", row)}


def test_every_name_given_is_documented_and_every_one_documented_is_given() -> None:
    modules = [*(ROOT / "conformance").glob("*.py"), *(ROOT / "conformance/judging").rglob("*.py")]
    text = "\n".join(module.read_text() for module in modules)
    given = {name for name in GIVEN.findall(text) if "-" in name} | {"raised", "silent"}
    assert sorted(given - documented()) == []
    everywhere = "\n".join(module.read_text() for module in (ROOT / "conformance").rglob("*.py"))
    assert [name for name in sorted(documented()) if f'"{name}"' not in everywhere] == []
