"""The parts of a run are the run: the same cases, none twice, and nothing less is joined."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from conformance.certification.certificate import digest
from conformance.cli import main
from conformance.suite.parts import Part
from tests.certification.screens import SUBJECTS, lora_compat
from tests.fleets.checkouts import RARE, RARE_CASE, Checkout

CLASSES = (f"{SUBJECTS}.plain:PlainLinear", f"{SUBJECTS}.scaled:ScaledLinear")
LACKING = '{"run": {"part": {}}, "clauses": {}, "format_version": 1, "contract_version": 1}'
Change = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize("tests", [0, 1, 2, 7, 12])
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_every_test_belongs_to_one_part(tests: int, count: int) -> None:
    parts = [Part(index, count) for index in range(1, count + 1)]
    assert all(sum(part.has(position) for part in parts) == 1 for position in range(tests))


@pytest.mark.parametrize("given", ["", "2", "0/2", "3/2", "a/b", "-1/2", "1/0", "1/2/3", "²/3"])
def test_what_is_no_part_is_said(given: str) -> None:
    with pytest.raises(ValueError, match="give i/n with i from 1 to n, for instance 1/3"):
        Part.parse(given)


def test_two_checkouts_share_a_run_and_the_results_are_those_of_the_whole(
    two: tuple[Checkout, Checkout], tmp_path: Path
) -> None:
    select = "conformance/test_dense_math.py"
    # The seed draws the rare shape in a small case.
    drawn = ("--max-examples", "20", "--conformance-seed", "5")
    arguments = ("--impl", RARE, *drawn, "-k", "one_adapter_gives or MATH-2")
    whole = tmp_path / "whole.json"
    files = [tmp_path / "1.json", tmp_path / "2.json"]
    code, screen = two[0].suite(*arguments, "--shards", "2", "--results", str(whole), select=select)
    assert code == 1, screen
    for checkout, part, file in zip(two, ("1/2", "2/2"), files, strict=True):
        store = str(tmp_path / file.stem)
        _, screen = checkout.suite(
            *arguments, "--shard", part, "--results", str(file), "--write-regressions", store, select=select
        )
        assert f"part {part}, for lora-compat merge" in screen
    code, screen = two[1].run("conformance.cli", "merge", *map(str, reversed(files)), "--output", str(tmp_path / "m"))
    assert code == 1, screen
    assert RARE_CASE in screen
    assert "not conformant (MATH-1)" in screen
    assert timeless(tmp_path / "m") == timeless(whole)


def timeless(file: Path) -> dict[str, Any]:
    """A document without what the clock says."""
    document = json.loads(file.read_text())
    for clause in document["clauses"].values():
        del clause["seconds"]
    return document


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run's certificate, ``whole.json``, and those of its three parts, ``1.json`` to ``3.json``."""
    folder = tmp_path_factory.mktemp("certified")
    arguments = ["certify", *CLASSES, "--max-examples", "3", "--shards", "3"]
    lora_compat(*arguments, "--certificate", str(folder / "whole.json"))
    for index in (1, 2, 3):
        more = ["--shard", f"{index}/3", "--certificate", str(folder / f"{index}.json")]
        _, screen = lora_compat(*arguments, *more)
        assert f"part {index}/3: the verdict is that of lora-compat merge on all" in screen
    return folder


@pytest.fixture
def parts(certified: Path, tmp_path: Path) -> list[Path]:
    """Copies of the three parts' certificates, to tamper with."""
    return [Path(shutil.copy(certified / name, tmp_path)) for name in ("1.json", "2.json", "3.json")]


def test_the_parts_certificates_make_the_whole_runs(certified: Path, parts: list[Path], tmp_path: Path) -> None:
    code, screen = merge(*parts, "--output", tmp_path / "merged.json")
    whole, merged = (json.loads(file.read_text()) for file in (certified / "whole.json", tmp_path / "merged.json"))
    assert merged == whole
    assert code == 0, screen
    assert f"{CLASSES[0]}: certified" in screen
    assert command("verify", tmp_path / "merged.json")[0] == 0


def test_a_part_is_not_verified(parts: list[Path]) -> None:
    code, screen = command("verify", parts[0])
    assert code == 1
    assert "is part 1/3 of a run: verify what `lora-compat merge` makes of all" in screen


def test_a_gap_is_refused(parts: list[Path]) -> None:
    assert_refused(parts[:2], "part 3/3 is missing: run it with --shard 3/3")


def test_an_overlap_is_refused(parts: list[Path]) -> None:
    assert_refused([*parts, parts[1]], "are both part 2/3")


def test_another_part_of_the_same_number_is_refused(parts: list[Path]) -> None:
    edit(parts[1], lambda document: document["run"]["part"].update(part="1/3"))
    assert_refused(parts, "are both part 1/3")


def test_a_part_that_was_cut_short_is_refused(parts: list[Path]) -> None:
    edit(parts[2], lambda document: document["run"]["part"]["ran"].pop())
    assert_refused(parts, "3.json, part 3/3, has results of", "run that part again")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("seed is 0 in the one and 1 in the other", lambda document: document["run"].update(seed=1)),
        ("torch is ", lambda document: document["environment"].update(torch="0.1")),
        ("contract version is ", lambda document: document.update(contract_version=0)),
        ("classes is ", lambda document: document["subjects"][0].update(source_sha256="0")),
        ("hash of the tests' names is ", lambda document: document["run"]["part"].update(names="0")),
        ("number of tests is ", lambda document: document["run"]["part"].update(tests=1)),
        ("number of parts is 3 in the one and 4", lambda document: document["run"]["part"].update(part="2/4")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_part_of_another_run_is_refused(parts: list[Path], name: str, change: Change) -> None:
    edit(parts[1], change)
    assert_refused(parts, "1.json", "2.json are of different runs", name, "differ in --shard alone")


def test_an_altered_part_is_refused(parts: list[Path]) -> None:
    parts[0].write_text(parts[0].read_text().replace('"seed": 0', '"seed": 2'))
    assert_refused(parts, "1.json was altered")


def test_a_whole_run_is_refused(certified: Path, parts: list[Path]) -> None:
    assert_refused([certified / "whole.json", *parts], "whole.json is a whole run, not a part", "--shard i/n")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is no JSON"),
        ("[]", "is neither a certificate nor results"),
        ('{"run": {}, "clauses": {}}', "has format None"),
        (LACKING, "is incomplete: it lacks identity"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "other.json").write_text(text)
    assert_refused([tmp_path / "other.json"], f"other.json {said}")
    assert_refused([tmp_path / "nowhere.json"], "nowhere.json cannot be read")


def test_known_failures_are_judged_on_the_whole_run(parts: list[Path], tmp_path: Path) -> None:
    known = {"class": "*", "clause": "MATH-1", "anomaly": "delta-dropped", "link": "a", "expires": "9999-01-01"}
    (tmp_path / "known").write_text(json.dumps({"format_version": 1, "known_failures": [known]}))
    code, screen = merge(*parts, "--baseline", tmp_path / "known")
    assert code == 1
    assert "is stale, nothing failed of it: remove the entry" in screen
    assert merge(*parts, "--baseline", tmp_path / "nowhere")[0] == 4


def merge(*arguments: object) -> tuple[int, str]:
    """Exit code and screen of ``lora-compat merge``, in this process."""
    return command("merge", *arguments)


def command(*arguments: object) -> tuple[int, str]:
    """Exit code and screen of a command of ``lora-compat`` that takes no time, in this process."""
    printed = io.StringIO()
    with redirect_stdout(printed), redirect_stderr(printed):
        code = main(list(map(str, arguments)))
    return code, printed.getvalue()


def edit(file: Path, change: Change) -> None:
    """Changes a certificate, with a hash that fits."""
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document | {"sha256": digest(document)}))


def assert_refused(files: list[Path], *said: str) -> None:
    """One line that says all of it, and exit code 4."""
    code, screen = merge(*files)
    assert code == 4, screen
    assert len(screen.splitlines()) == 1, screen
    assert all(part in screen for part in said), screen
