"""The page of one architecture that breaks a clause: what is wrong, in which case, why, and how to see it again."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from conformance.certification.atlas.results import Links, OfName, plain
from conformance.contract import CONTRACT
from conformance.judging.verdicts import Failure
from conformance.regressions.entries import Entry, StoredFailure
from conformance.test_files.vllm_dialect import Vllm
from conformance.test_files.writer import file_name


def page(name: str, of_name: OfName, links: Links, impl: str) -> str:
    """The page, in a folder two below docs/."""
    lines = [f"# {name}", ""]
    for result in of_name.values():
        for one in result.failures:
            of = f" of {one.role}" if one.role else ""
            lines += [f"## {one.clause}: *{one.anomaly}*{of}", "", f"{CONTRACT[one.clause].sentence}", ""]
            lines += [*_told(name, one, links), *_file(one, impl), ""]
    lines += ["## To see it", "", f"    lora-compat certify-model {name} --impl {impl} --max-examples 1"]
    lines += [f"    python {link}" for link in _scripts(name, of_name, links)]
    return "\n".join(lines) + "\n"


def _told(name: str, failure: Failure, links: Links) -> Iterator[str]:
    yield f"Seen: {plain(failure.message)}"
    link = links.known.link(name, failure)
    summary = _summary(Path(link)) if link.endswith(".py") else ""
    yield ""
    yield f"Cause: {summary} (finding {links.of(name, failure)})" if summary else f"Cause: {link or 'open'}"
    yield from ("", "The case:", "", f"    {failure.shown}")


def _file(failure: Failure, impl: str) -> Iterator[str]:
    """The name of the file that the command of this page writes; a case that was left as it was met is made plain."""
    if impl == "vllm" and failure.cause:
        entry = Entry(failure.case, failure.shown, ())
        stored = StoredFailure(failure.clause, failure.anomaly, failure.message, impl)
        yield from ("", f"As a test for plain vLLM: `{file_name(entry, stored, Vllm())}`")


def _scripts(name: str, of_name: OfName, links: Links) -> list[str]:
    failures = (one for result in of_name.values() for one in result.failures)
    found = (links.known.link(name, one) for one in failures)
    return list(dict.fromkeys(link for link in found if link.endswith(".py")))


def _summary(script: Path) -> str:
    """The first line of what a finding's script says of itself."""
    if not script.is_file():
        return ""
    said = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or ""
    return said.partition("\n")[0]
