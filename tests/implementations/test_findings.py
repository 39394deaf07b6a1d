"""Every finding about vLLM is present in the releases that it names, and absent in the others."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

FINDINGS = Path(__file__).parents[2] / "docs" / "findings"
SCRIPTS = sorted(FINDINGS.glob("[0-9]*.py"))
RUN_ON = ("0.19.1", "0.20.0", "0.32.0", "0.33.0")


def named_in(script: Path) -> tuple[str, list[str]]:
    """The clause and the releases that a script's docstring names."""
    found = re.search(r"^Clause (.+?)\. Releases: (.+)\.$", script.read_text(), re.MULTILINE)
    assert found, f"{script.name} names no clause and releases"
    return found[1], found[2].split(", ")


@pytest.fixture(scope="module")
def results() -> dict[str, dict[str, str]]:
    if importlib.util.find_spec("vllm") is None:
        pytest.fail("vLLM is not installed: make conformance IMPL=vllm, or uv pip install -e '.[vllm]'", pytrace=False)
    command = [sys.executable, str(FINDINGS / "run_all.py"), "--json"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=600)
    lines = [line for line in run.stdout.splitlines() if line.startswith("{")]
    assert run.returncode == 0, run.stderr
    return {one["script"]: one for one in map(json.loads, lines)}


@pytest.mark.vllm
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_finding_shows_in_the_releases_it_names(script: Path, results: dict[str, dict[str, str]]) -> None:
    seen = results[script.name]
    installed = version("vllm").split("+")[0]
    accepted = {"PRESENT", "absent"}
    if installed in RUN_ON:
        accepted = {"PRESENT" if installed in named_in(script)[1] else "absent"}
    assert seen["verdict"] in accepted, f"{seen['verdict']} in vLLM {installed}:\n{seen['output']}"


@pytest.mark.vllm
def test_a_script_runs_by_itself() -> None:
    run = subprocess.run([sys.executable, str(SCRIPTS[0])], capture_output=True, text=True, timeout=300)
    assert run.returncode in (0, 1), run.stderr
    assert re.search(r"^(PRESENT|absent) in vLLM ", run.stdout, re.MULTILINE)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_the_table_has_every_finding(script: Path) -> None:
    clause, releases = named_in(script)
    row = next(line for line in (FINDINGS / "README.md").read_text().splitlines() if f"]({script.name})" in line)
    assert f"| {clause} |" in row
    assert f"| {'all four' if releases == list(RUN_ON) else ', '.join(releases)} |" in row
