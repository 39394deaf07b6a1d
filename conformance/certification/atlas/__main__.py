"""``python -m conformance.certification.atlas FOLDER PAGE``: the pages of a run.

lora-compat certify-model all --resume results/
python -m conformance.certification.atlas results/ docs/results/models-0.33.0.md --baseline FILE --pages
"""

from __future__ import annotations

import argparse
from pathlib import Path

from conformance.certification.atlas.differences import Differences
from conformance.certification.atlas.pages import page
from conformance.certification.atlas.results import Links, fails, read, releases
from conformance.certification.atlas.table import Table
from conformance.certification.baseline import Baseline
from conformance.implementations.vllm.runtime import installed_version
from conformance.subjects.models.types import everything


def main() -> None:
    """Writes the table, and with ``--pages`` a page for each architecture that fails beside it, in ``models/``."""
    parser = argparse.ArgumentParser(prog="python -m conformance.certification.atlas", description=__doc__)
    parser.add_argument("folder", type=Path, help="what --resume kept")
    parser.add_argument("page", type=Path, help="the page to write")
    parser.add_argument("--impl", default="vllm", help="whose results they are (default: vllm)")
    parser.add_argument("--baseline", type=Path, help="the list of known failures, which has the causes")
    parser.add_argument("--pages", action="store_true", help="write a page for each architecture that fails, too")
    parser.add_argument("--earlier", type=Path, help="what --resume kept of another run, to compare with")
    given = parser.parse_args()
    known = Baseline.read(given.baseline) if given.baseline else Baseline(Path())
    others = releases(given.folder) - {installed_version()}
    if others:
        installed = f"vLLM {installed_version()} is installed"
        parser.error(f"{given.folder} has results of vLLM {' and '.join(sorted(others))}, and {installed}")
    results = read(given.folder)
    failing = [name for name, of_name in results.items() if fails(of_name)] if given.pages else []
    if given.pages:
        folder = given.page.parent / "models"
        folder.mkdir(exist_ok=True)
        for old in folder.glob("*.md"):
            old.unlink()
        for name in failing:
            text = page(name, results[name], Links(known, "../.."), given.impl)
            (folder / f"{name}.md").write_text(text, encoding="utf-8")
    served = f"vLLM {installed_version()}"
    title = f"Models of {served}" if given.impl == "vllm" else f"Models of {served}, served by the {given.impl}"
    earlier = Differences.since(given.earlier) if given.earlier else None
    table = Table(title, results, *everything(), Links(known), failing, earlier)
    given.page.write_text(table.text(), encoding="utf-8")


if __name__ == "__main__":
    main()
