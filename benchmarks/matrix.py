"""Clause × release of vLLM, of PEFT and of SGLang: builds an environment for each release and runs the suite in it.

    make matrix          (python3 benchmarks/matrix.py --uv PATH [--sections peft …] [--releases 0.33.0 …]
                          [--max-examples 250])

Writes docs/results/matrix.md: verdict and named anomaly of every clause, with the smallest failing case below. What is
under a title that is not asked for stays. An environment that exists is reused. Nothing of it is needed by the other
commands.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
ENVIRONMENTS = ROOT / ".matrix"
TOOLS = ("cattrs", "cloudpickle", "hypothesis", "jinja2", "pytest", "pytest-xdist", "safetensors")
# Importing vLLM 0.32.0 and later would start builds in the background.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "HUMMING_DISABLE_PARALLEL_BUILD": "1"}
PAGE = ROOT / "docs" / "results" / "matrix.md"
HEAD = "# Clause × release\n\nWritten by `make matrix`.\n"


@dataclass(frozen=True)
class Section:
    """One implementation on the releases of a package; ``who`` is what a release follows."""

    impl: str
    package: str
    title: str
    who: str
    releases: tuple[str, ...]


VLLM = ("0.19.1", "0.20.0", "0.32.0", "0.33.0")
SECTIONS = (
    Section("vllm", "vllm", "vLLM's own LoRA", "vllm on vLLM", VLLM),
    Section("reference", "vllm", "The reference, wrapping the same vLLM layers", "reference on vLLM", VLLM),
    Section("peft", "peft", "PEFT, on torch's layers", "peft", ("0.21.2",)),
    Section("sglang", "sglang", "SGLang, on its own layers", "sglang", ("0.5.23",)),
)


def environment(release: str, uv: str, package: str) -> Path:
    """The interpreter of an environment with that release of a package."""
    folder = ENVIRONMENTS / (release if package == "vllm" else f"{package}-{release}")
    python = folder / "bin" / "python"
    if not (folder / ".installed").exists():
        subprocess.run([uv, "venv", "--quiet", "--allow-existing", "--python", sys.executable, folder], check=True)
        command = [uv, "pip", "install", "--quiet", "--python", python, "--overrides", ROOT / "overrides.txt"]
        # Older releases of vLLM have versions of their own.
        command += [] if package == "vllm" else ["--constraints", ROOT / "constraints.txt"]
        subprocess.run([*command, f"{package}=={release}", *TOOLS], cwd=ROOT, check=True)
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


def written() -> dict[str, str]:
    """What the page has under each title."""
    if not PAGE.exists():
        return {}
    _, *sections = re.split(r"(?m)^## ", PAGE.read_text())
    return dict(section.split("\n", 1) for section in sections)


def section_of(section: Section, arguments: argparse.Namespace) -> str:
    """Runs the suite on the releases of a section; what stands under its title."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    found = {}
    for release in arguments.releases if section.package == "vllm" else section.releases:
        print(f"{section.who} {release} …", flush=True)
        python = environment(release, arguments.uv, section.package)
        found[release] = run(release, python, arguments.max_examples, section.impl)
    of = f"{arguments.max_examples} cases a clause, with the suite of commit {commit.stdout.strip()}."
    return f"\n{of}\n\n{page(found, section.who)}\n"


def main() -> None:
    names = [section.impl for section in SECTIONS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--uv", default="uv")
    parser.add_argument("--sections", nargs="*", choices=names, default=names)
    parser.add_argument("--releases", nargs="*", default=list(VLLM), help="of vLLM")
    parser.add_argument("--max-examples", type=int, default=250)
    arguments = parser.parse_args()
    for section in SECTIONS:
        if section.impl in arguments.sections:
            found = written() | {section.title: section_of(section, arguments)}
            order = [one.title for one in SECTIONS if one.title in found]
            PAGE.parent.mkdir(parents=True, exist_ok=True)
            PAGE.write_text(HEAD + "".join(f"\n## {title}\n{found[title]}" for title in order).rstrip() + "\n")
            print(f"written: {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
