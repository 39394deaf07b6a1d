"""The file of a program does what the suite does, step by step, so what the suite has found shows in the file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cache
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import Phase

from conformance.certification.clause_tests import bodies_of
from conformance.judging.facts import Sighting
from conformance.judging.verdicts import Violation
from conformance.search.bodies import violation_of
from conformance.search.drawing import Source, draw_cases
from conformance.search.life_machines import Breaking, Keeping, Living
from conformance.search.simplifications.programs import simpler_whole
from conformance.subjects.calls import calls_of
from conformance.subjects.programs import observe_model
from conformance.subjects.records import Record
from conformance.test_files.lora_compat_dialect import LoraCompat
from conformance.test_files.plays import play_of
from conformance.test_files.scenes import reference
from conformance.test_files.writer import write, write_all
from conformance.values.programs import ProgramValues, in_tower
from lora_compat.errors import FullHouseError, LoRAError
from lora_compat.families import Family
from lora_compat.manager import LoRAManager
from strategies.cases import AdapterSpec, LayerSpec
from strategies.program_drawing import frames, programs
from strategies.programs import ModelAdapterSpec, Program, Step, StepKind
from strategies.tree_drawing import models
from strategies.trees import ModelSpec, ModuleSpec
from tests.manager.planted import MUTANTS
from tests.regressions_writer.examples import entry_of
from tests.regressions_writer.models import TWO, in_layer
from tests.regressions_writer.test_files_stand_on_their_own import run_test

USE, PIN, LEAVE, RERUN = StepKind.USE, StepKind.PIN, StepKind.DEACTIVATE, StepKind.RERUN
TREES = models(tp_sizes=(1,), linears=(1, 3), others=(0, 0))
EVERY_KIND = programs(frames(trees=TREES, disk=(False,)), kinds=tuple(StepKind), steps=(0, 10))
CALLS = ("add", "activate", "deactivate", "remove", "pin", "map_tokens")
BUGS = {mutant.name: mutant for mutant in MUTANTS}
COUNT = 30


@cache
def drawn(source: Source) -> list[Program]:
    found: list[Program] = []
    draw_cases(source, found.append, examples=COUNT, seed=1, phases=(Phase.generate,))
    return found


def written(clause: str, anomaly: str, seen: Sighting, program: Program) -> str:
    entry = entry_of(clause, anomaly, program, seen)
    return write(entry, entry.failures[0], LoraCompat(), "fails somewhere.")


def last_run(program: Program) -> Sighting:
    """What the suite would say of the program's last run."""
    number, name = len(list(calls_of(program))), program.model.linears[-1].name
    return in_layer(number, name, 2.0, 1.0)


@contextmanager
def noted() -> Iterator[list[object]]:
    """Every call of a manager, with the ids and the tower that it was given."""
    seen: list[object] = []

    def noting(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def called(self: LoRAManager, given: Any, *others: Any, **named: Any) -> Any:
            seen.append((name, tuple(given) if name == "map_tokens" else given, named.get("tower", "")))
            return call(self, given, *others, **named)

        return called

    with ExitStack() as patched:
        for name in CALLS:
            patched.enter_context(patch.object(LoRAManager, name, noting(name, getattr(LoRAManager, name))))
        yield seen


def played(program: Program) -> list[Record]:
    (records,) = observe_model(
        reference(), ProgramValues(program), lambda session: session.build().wrap().require_wrapped().play()
    )
    return records


def test_the_file_makes_every_call_of_a_manager_that_the_suite_makes() -> None:
    assert {step.kind for program in drawn(EVERY_KIND) for step in program.steps} == set(StepKind)
    assert any(program.model.tower for program in drawn(EVERY_KIND))
    entries = [entry_of("LIFE-1", "delta-dropped", program, last_run(program)) for program in drawn(EVERY_KIND)]
    texts = write_all([(entry, entry.failures[0]) for entry in entries])
    for program, (text, _) in zip(drawn(EVERY_KIND), texts, strict=True):
        with noted() as of_suite:
            played(program)
        with noted() as of_file:
            run_test(text)
        assert of_file == of_suite, program


def test_the_file_expects_each_token_to_be_served_by_whom_the_suite_expects() -> None:
    again = Program(steps=(Step(USE), Step(), Step(LEAVE), Step(RERUN), Step(USE), Step(RERUN)))
    for program in (again, *drawn(EVERY_KIND)):
        play = play_of("LIFE-1", "delta-dropped", last_run(program).place, program)
        for turn, record in zip(play.turns, played(program), strict=True):
            for index, tokens in enumerate(record.tokens):
                ids = turn.ids[::-1] if in_tower(program.model, index) else turn.ids
                assert ids == tuple(number + 1 for number in tokens), (program, turn)


@pytest.mark.parametrize(
    ("clause", "machine", "bug"),
    [
        ("LIFE-1", Living, "slices-written-back"),
        ("LIFE-1", Living, "same-map-same-slots"),
        ("LIFE-1", Living, "alpha-pattern-ignored"),
        ("LIFE-2", Keeping, "newest-leaves"),
        ("LIFE-2", Keeping, "pins-forgotten"),
        ("LIFE-2", Keeping, "victim-leaves-first"),
        ("LIFE-3", Breaking, "failed-activation-stays-active"),
        ("LIFE-3", Breaking, "victim-leaves-first"),
    ],
)
def test_every_drawn_program_that_shows_a_planted_bug_has_a_file_that_shows_it(
    clause: str, machine: Source, bug: str
) -> None:
    body, found = bodies_of(clause)[0], []
    for program in drawn(machine):
        with BUGS[bug].patch():
            found.append(violation_of(reference(), body, replace(program, companions=())))  # they have no form yet
    shown = [one for one in found if one is not None]
    assert shown, "no drawn program shows the bug"
    assert_proved(clause, shown, BUGS[bug].patch)


def assert_proved(clause: str, found: Sequence[Violation], planted: Callable[[], Any]) -> None:
    """Each file passes on the reference, and fails where the bug is."""
    entries = [entry_of(clause, one.anomaly, one.case, one.sighting) for one in found]
    for text, _ in write_all([(entry, entry.failures[0]) for entry in entries]):
        assert isinstance(text, str)
        run_test(text)
        with planted(), pytest.raises((AssertionError, LoRAError, pytest.fail.Exception)):
            run_test(text)


@contextmanager
def pins_without_a_slot() -> Iterator[None]:
    """Pinning an adapter keeps a slot for it, but whoever was not active is not loaded into it."""
    activate = LoRAManager.activate

    def activating(self: LoRAManager, adapter_id: int) -> bool:
        if len({*self._active, *self._pinned} - {adapter_id}) >= self.config.max_loras and self._pinned:
            raise FullHouseError("slot", self.config.max_loras, self._active, "max_loras", "and all are pinned")
        return activate(self, adapter_id)

    def pinning(self: LoRAManager, adapter_id: int) -> bool:
        self._pinned.add(adapter_id)
        return True

    with patch.object(LoRAManager, "activate", activating), patch.object(LoRAManager, "pin", pinning):
        yield


def test_a_refusal_that_is_right_by_the_contract_has_a_file_of_whom_the_manager_had_lost() -> None:
    steps = (Step(StepKind.ADD, 1), Step(PIN, 1), Step(USE))
    program = Program(steps=steps, adapters=(ModelAdapterSpec(), ModelAdapterSpec()), max_adapters=2)
    with pins_without_a_slot():
        found = violation_of(reference(), bodies_of("LIFE-1")[0], program)
    assert found is not None
    assert found.anomaly == "refused-wrongly"
    assert "call 4, activate(1), rank 0: FullHouseError" in found.message
    assert_proved("LIFE-1", [found], pins_without_a_slot)


def test_a_plainer_directory_is_rank_stabilised_as_a_whole_or_not_at_all() -> None:
    parts = (AdapterSpec(rank=4, alpha=2.0, rslora=True), AdapterSpec(rank=4, alpha=4.0, rslora=True))
    program = Program(TWO, (Step(USE),), (ModelAdapterSpec(parts),), from_disk=True)
    told = [{part.rslora for part in one.adapters[0].parts if part} for one in simpler_whole(program) if one.from_disk]
    assert {False} in told, "its config says it of all modules, so that a plainer one says it of none"
    assert {False, True} not in told, "no config says it of some"


def test_a_layer_that_is_named_like_a_part_of_a_packed_one_has_another_name_in_the_file() -> None:
    packed = ModuleSpec(
        "layers.0.attn.qkv_proj",
        layer=LayerSpec(family=Family.MERGED_COLUMN, output_sizes=(2, 1)),
        packed=(1, 1),
        children=("q_proj", "k_proj"),
    )
    alone = ModuleSpec("vision.q_proj", layer=LayerSpec(family=Family.COLUMN, output_sizes=(3,)))
    parts = (AdapterSpec(present=(True, True)), AdapterSpec())
    program = Program(ModelSpec((packed, alone)), (Step(USE),), (ModelAdapterSpec(parts),))
    run_test(written("LIFE-1", "delta-dropped", last_run(program), program))
