"""Clause × release of vLLM, and of PEFT: builds one environment for each release and runs the suite in it.

    make matrix          (python3 benchmarks/matrix.py --uv PATH [--releases 0.33.0 …] [--max-examples 250])

Writes docs/results/matrix.md: verdict and named anomaly of every clause, with the smallest failing case below. An
environment that exists is reused. Nothing of it is needed by the other commands.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
ENVIRONMENTS = ROOT / ".matrix"
RELEASES = ("0.19.1", "0.20.0", "0.32.0", "0.33.0")
PEFT_RELEASES = ("0.21.2",)
TOOLS = ("cattrs", "cloudpickle", "hypothesis", "jinja2", "pytest", "pytest-xdist", "safetensors")
# Importing 0.32.0 and later would start builds in the background.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "HUMMING_DISABLE_PARALLEL_BUILD": "1"}
PAGE = ROOT / "docs" / "results" / "matrix.md"


def environment(release: str, uv: str, package: str = "vllm") -> Path:
    """The interpreter of an environment with that release of vLLM, or of PEFT."""
    folder = ENVIRONMENTS / (release if package == "vllm" else f"{package}-{release}")
    python = folder / "bin" / "python"
    if not (folder / ".installed").exists():
        subprocess.run([uv, "venv", "--quiet", "--allow-existing", "--python", sys.executable, folder], check=True)
        overrides = ROOT / "overrides.txt"
        command = [uv, "pip", "install", "--quiet", "--python", python, "--overrides", overrides]
        subprocess.run([*command, f"{package}=={release}", *TOOLS], check=True)
        (folder / ".installed").touch()
    return python


def run(release: str, python: Path, max_examples: int, impl: str) -> dict:
    """The suite's results on that release."""
    results = ENVIRONMENTS / f"{release}-{impl}.json"
    failures = ENVIRONMENTS / f"{release}-{impl}-failures"
    results.unlink(missing_ok=True)
    shutil.rmtree(failures, ignore_errors=True)  # or what another run found would be tried first
    layers = ["--layers", "vllm"] if impl == "reference" else []
    command = [python, "-m", "pytest", "conformance/", "-q", "-n", "auto", "--impl", impl, *layers]
    command += ["--max-examples", str(max_examples), "--results", results, "--shards", "2", "--no-proof"]
    command += ["--write-regressions", failures]
    finished = subprocess.run(
        command, cwd=ROOT, env=os.environ | ENVIRONMENT, capture_output=True, text=True, check=False
    )
    if not results.exists():
        sys.exit(
            f"{impl} on {release} gave no results; pytest said:\n{finished.stdout[-3000:]}{finished.stderr[-3000:]}"
        )
    found: dict = json.loads(results.read_text())
    return found


def verdict_of(result: dict | None) -> str:
    """A cell: the anomalies of a failure, else the verdict that the counts amount to."""
    if result is None:
        return "–"
    if result["errors"]:
        return "**error**"
    if result["failures"]:
        return "**fail** " + ", ".join(sorted({failure["anomaly"] for failure in result["failures"]}))
    counts = result["counts"]
    return next((v for v in ("pass", "refused", "not exercised", "not applicable") if counts.get(v)), "not exercised")


def page(found: dict[str, dict], who: str) -> str:
    """The table and the smallest failing cases of ``who``, a release of which follows, as Markdown."""
    clauses = list(dict.fromkeys(clause for one in found.values() for clause in one["clauses"]))
    lines = ["| clause | " + " | ".join(found) + " |", "|---" * (len(found) + 1) + "|"]
    for clause in clauses:
        cells = [verdict_of(one["clauses"].get(clause)) for one in found.values()]
        lines.append(f"| {clause} | " + " | ".join(cells) + " |")
    cases = [sum(sum(one["counts"].values()) for one in run["clauses"].values()) for run in found.values()]
    lines.append("| cases | " + " | ".join(f"{count:,}" for count in cases) + " |")
    for release, one in found.items():
        failures = [failure for result in one["clauses"].values() for failure in result["failures"]]
        if failures:
            lines += ["", f"### Smallest failing cases: {who} {release}", ""]
        for failure in failures:
            message = _anywhere(failure["message"].splitlines()[0])[:300]
            lines += [
                f"- **{failure['clause']}** {failure['anomaly']}: {message}",
                "",
                f"      {failure['shown']}",
                "",
            ]
    return "\n".join(lines) + "\n"


def _anywhere(message: str) -> str:
    """The message without the folders of this machine."""
    return re.sub(r"\S*/site-packages/", "", message).replace(f"{ROOT.resolve()}/", "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--uv", default="uv")
    parser.add_argument("--releases", nargs="*", default=list(RELEASES))
    parser.add_argument("--max-examples", type=int, default=250)
    arguments = parser.parse_args()
    sections = ["# Clause × release\n", f"Written by `make matrix`, {arguments.max_examples} cases a clause.\n"]
    for impl, package, title, who in (
        ("vllm", "vllm", "vLLM's own LoRA", "vllm on vLLM"),
        ("reference", "vllm", "The reference, wrapping the same vLLM layers", "reference on vLLM"),
        ("peft", "peft", "PEFT, on torch's layers", "peft"),
    ):
        found = {}
        for release in arguments.releases if package == "vllm" else PEFT_RELEASES:
            print(f"{who} {release} …", flush=True)
            python = environment(release, arguments.uv, package)
            found[release] = run(release, python, arguments.max_examples, impl)
        sections.append(f"## {title}\n\n{page(found, who)}")
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text("\n".join(sections))
    print(f"written: {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
