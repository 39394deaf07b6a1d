"""``lora-compat replay``: one line a failure, and an exit code that a script can use."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from conformance.cli import main
from conformance.judging.facts import Aspect, Difference, Sighting
from conformance.regressions.entries import Entry, StoredFailure
from conformance.regressions.store import Store
from conformance.suite.exits import Exit
from conformance.test_files.lora_compat_dialect import LoraCompat
from conformance.test_files.writer import file_name, write
from strategies.cases import AdapterSpec, Case, LayerSpec, Regime
from strategies.subclasses import SubclassSpec
from tests.regressions_writer.examples import entry_of

BROKEN = "tests.implementations.broken:DropsTheBias"
WITH_BIAS = Case(layer=LayerSpec(bias=True), seed=4)


AS_IT_WAS = Sighting(Difference(Aspect.VALUE, 2.0, 1.0, 0, (0, 0))).to_dict()


def stored(directory: Path, *found: tuple[str, str, Case, str]) -> list[Entry]:
    store = Store(directory)
    entries = []
    for clause, anomaly, case, impl in found:
        entry = entry_of(clause, anomaly, case)
        entries.append(
            store.add(entry.case, entry.shown, StoredFailure(clause, anomaly, "as it was", impl, seen=AS_IT_WAS))
        )
    return entries


def replayed(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    code = main(["replay", *map(str, arguments)])
    said = capsys.readouterr()
    return code, said.out + said.err


def test_a_fixed_failure_is_shown_and_ends_in_0(tmp_path: Path, capsys, snapshot) -> None:
    stored(tmp_path, ("MATH-1", "delta-dropped", Case(), "reference"))
    code, text = replayed(capsys, "--store", tmp_path)
    assert code == Exit.OK
    assert text == snapshot


def test_one_fixed_of_several_in_a_file_is_shown(tmp_path: Path, capsys, snapshot) -> None:
    stored(
        tmp_path,
        ("MATH-9", "bias-dropped", WITH_BIAS, BROKEN),
        ("MATH-9", "bias-dropped", WITH_BIAS, "reference"),
    )
    (file,) = (tmp_path / "cases").glob("*.json")
    code, text = replayed(capsys, file)
    assert code == Exit.FAILED
    assert text == snapshot


def test_another_implementation_may_be_asked(tmp_path: Path, capsys) -> None:
    (entry,) = stored(tmp_path, ("MATH-9", "bias-dropped", WITH_BIAS, BROKEN))
    assert replayed(capsys, entry.id[:6], "--store", tmp_path)[0] == Exit.FAILED
    code, text = replayed(capsys, entry.id[:6], "--store", tmp_path, "--impl", "reference")
    assert (code, text.startswith("FIXED")) == (Exit.OK, True)


def test_another_anomaly_than_before_is_said(tmp_path: Path, capsys) -> None:
    stored(tmp_path, ("MATH-9", "bias-per-rank", WITH_BIAS, BROKEN))
    assert "now bias-dropped: rank 0: out0[0, 0]=" in replayed(capsys, tmp_path)[1]


@pytest.mark.parametrize("path", ["gone.layers:GoneLinear", "tests.certification.subjects.plain:GoneLinear"])
def test_a_class_that_cannot_be_imported_is_an_error_that_names_it(tmp_path: Path, capsys, path: str) -> None:
    stored(tmp_path, ("MATH-1", "raised", Case(subclass=SubclassSpec(target=path)), "reference"))
    code, text = replayed(capsys, tmp_path)
    assert code == Exit.ERROR
    assert f"{path} cannot be imported" in text
    assert "PYTHONPATH" in text
    assert "STILL FAILS" not in text


def test_what_cannot_be_run_is_an_error_and_the_rest_is_run(tmp_path: Path, capsys) -> None:
    stored(
        tmp_path,
        ("MATH-1", "delta-dropped", Case(), "reference"),
        ("MATH-1", "delta-dropped", Case(seed=1), "gone.package:Implementation"),
    )
    (tmp_path / "cases" / "edited.json").write_text((next((tmp_path / "cases").glob("*.json"))).read_text())
    code, text = replayed(capsys, tmp_path)
    assert code == Exit.ERROR
    assert "gone.package" in text
    assert "edited by hand" in text
    assert text.splitlines()[-1] == "1 FIXED, 2 ERROR"
    assert (tmp_path / "cases" / "edited.json").exists()


def test_a_test_file_leads_to_its_case_or_is_run_itself(tmp_path: Path, capsys) -> None:
    (entry,) = stored(tmp_path, ("MATH-1", "delta-dropped", Case(), "reference"))
    failure = replace(entry.failures[0], identity={"implementation": "reference"})
    file = tmp_path / file_name(entry, failure, LoraCompat())
    file.write_text(write(entry, failure, LoraCompat(), "none."))
    assert entry.id in replayed(capsys, file)[1]
    alone = tmp_path / "elsewhere" / file.name
    alone.parent.mkdir()
    alone.write_text(file.read_text())
    code, text = replayed(capsys, alone, "--store", tmp_path / "nothing")
    assert (code, text.splitlines()[0].split()) == (Exit.OK, ["FIXED", str(alone)])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["replay", "abcdef"], "'abcdef' is neither a file, nor a directory, nor the beginning of an id"),
        (["replay", "--impl", "refrence"], "did you mean 'reference'?"),
        (["replay", "--imp1"], "unrecognized arguments: --imp1"),
        (["replya"], "invalid choice: 'replya'"),
        ([], "COMMAND"),
    ],
    ids=["id", "impl", "option", "command", "nothing"],
)
def test_a_wrong_command_line_is_one_line_and_4(arguments: list[str], said: str, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    stored(tmp_path / ".lora_compat" / "regressions", ("MATH-1", "delta-dropped", Case(), "reference"))
    assert main(arguments) == Exit.USAGE
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.err.count("\n") == 1


def test_a_case_that_contradicts_itself_is_void_and_fails_nobody(tmp_path: Path, capsys) -> None:
    data = entry_of("MATH-1", "scale-wrong", Case(regime=Regime.ROUNDED, adapters=(AdapterSpec(alpha=0.3),))).case
    stored = StoredFailure("MATH-1", "scale-wrong", "as it was", "reference", seen=AS_IT_WAS)
    Store(tmp_path).add({**data, "regime": "exact"}, "Case(...)", stored)
    code, text = replayed(capsys, "--store", tmp_path)
    assert code == Exit.OK
    assert text.startswith("VOID")
    assert "received 0.3" in text
    assert text.endswith("delete it\n1 VOID\n")
