"""What a regression file of a program shows: its calls up to the one that failed, and what must come of that one."""

from __future__ import annotations

from dataclasses import dataclass

from conformance.judging.anomalies.partial_sums import summed_over_ranks, sums_partials
from conformance.judging.facts import Place
from conformance.oracles.programs import ProgramOracle
from conformance.oracles.shelf import Shelf
from conformance.subjects.calls import Call, calls_of
from conformance.test_files.layout import CannotWrite
from conformance.test_files.scenes import reference, rows
from conformance.values.programs import in_tower
from lora_compat.model_adapters import ModuleAdapter
from strategies.cases import Case
from strategies.programs import Misfit, Program

_RUNS = ("run", "rerun")
ADDS = ("add", "replace")  # which hand an adapter over


@dataclass(frozen=True, slots=True)
class Turn:
    """One call with what must come of it: None where it is refused, or where it may be.

    ``registered`` and ``active`` are the adapters' ids afterwards; ``ids`` has, for a run, each token's adapter, 0 for
    none.
    """

    call: Call
    result: bool | None
    may_fail: bool
    registered: frozenset[int]
    active: frozenset[int]
    ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Play:
    """One program with its numbers; the last turn is the one that failed."""

    clause: str
    anomaly: str
    place: Place
    program: Program
    values: ProgramOracle
    turns: tuple[Turn, ...]

    @property
    def compares(self) -> bool:
        """Whether it is a layer's output that is wrong."""
        return not self.turns or self.turns[-1].call.method in _RUNS

    @property
    def adds(self) -> bool:
        """Whether an adapter is ever added."""
        return any(turn.call.method in ADDS for turn in self.turns)

    @property
    def layer(self) -> tuple[int, str]:
        """The layer whose output is wrong, by number and name; the first where none is named."""
        for index, module in enumerate(self.program.model.linears):
            if self.place.module in module.names:
                return index, self.place.module
        return 0, self.program.model.linears[0].name

    def names(self) -> dict[str, str]:
        """What the file calls each module: the last part of its name, which is what packing and adapters go by."""
        found: dict[str, str] = {}
        tower = self.program.model.tower
        children = {child for module in self.program.model.linears for child in module.children}
        for module in self.program.model.linears:
            for name in module.names:
                start = f"{tower}." if tower and name.startswith(f"{tower}.") else ""
                last = name.rpartition(".")[2]
                short = start + ("shared." if name == module.alias else "") + last
                taken = short in found.values() or (last in children and not module.children)
                found[name] = f"{short}_{len(found)}" if taken else short
        return found

    def packing(self) -> dict[str, list[str]]:
        """The packed-modules mapping, by what the file calls the modules."""
        names = self.names()
        return {
            names[name].rpartition(".")[2]: list(module.children)
            for module in self.program.model.linears
            for name in module.names
            if module.children
        }

    def adapter(self, number: int) -> dict[str, ModuleAdapter]:
        """The adapter's modules, by what the file calls them."""
        names = self.checkpoint_names()
        return {names[name]: part for name, part in self.values.adapter(number).modules.items()}

    def checkpoint_names(self) -> dict[str, str]:
        """What the file calls each module of a checkpoint: layers, and the parts of packed ones."""
        names = self.names()
        parents = {
            f"{name.rpartition('.')[0]}.{child}".lstrip("."): f"{names[name].rpartition('.')[0]}.{child}".lstrip(".")
            for module in self.program.model.linears
            for name in module.names
            for child in module.children
        }
        return names | parents

    def expected(self) -> list[object]:
        """What ``outputs`` of the layer must be in the last turn, by rank; of partial sums the sum alone."""
        index, _ = self.layer
        right = self.values.expected(reference(), index, tuple(identity - 1 for identity in self.last_ids()))
        values = [[rows(value) for value in one.values] for one in right]
        if sums_partials(self.case):
            values = [list(summed_over_ranks(values, right[0].by_token))[:1]]
        return [one[0].tolist() if len(one) == 1 else [value.tolist() for value in one] for one in values]

    @property
    def case(self) -> Case:
        """The layer as a case."""
        return self.values.cases[self.layer[0]]

    def last_ids(self) -> tuple[int, ...]:
        """Each token's adapter in the layer's last run."""
        nobody = (0,) * len(self.program.batches[0])
        ids = next((turn.ids for turn in reversed(self.turns) if turn.ids), nobody)
        return ids[::-1] if in_tower(self.program.model, self.layer[0]) else ids


def play_of(clause: str, anomaly: str, place: Place, program: Program) -> Play:
    """The program as a play.

    Raises:
        CannotWrite: the call that failed is none of its calls.
    """
    turns = [] if clause.startswith("RANK-") or anomaly == "wrapped-twice" else _turns(program)
    if place.call is not None:
        turns = _up_to(place.call, turns) or _up_to(place.call, [one for one in turns if one.call.method != "rerun"])
        if not turns:
            raise CannotWrite(f"{place} is no call of this program; replay the case")
        if turns[-1].call.method not in _RUNS:  # it is only adapters' coming and going that matters
            turns = [turn for turn in turns if turn.call.method not in _RUNS]
    return Play(clause, anomaly, place, program, ProgramOracle(program), tuple(turns))


def _up_to(call: tuple[int, str, int], turns: list[Turn]) -> list[Turn]:
    """The turns up to a call, by its number, method and argument; none where it is not among them."""
    shown = turns[: call[0]]
    found = bool(shown) and (len(shown), shown[-1].call.method, shown[-1].call.argument) == call
    return shown if found else []


def _turns(program: Program) -> list[Turn]:
    shelf = Shelf(program.max_adapters, program.max_loras, program.evict)
    turns: list[Turn] = []
    mapped: tuple[int, ...] = ()
    for call in calls_of(program):
        fault = call.method == "activate_failing" and call.number not in shelf.active
        misfit = call.method in ("add", "activate", "pin") and program.adapters[call.number].misfit is not Misfit.NONE
        if fault or (misfit and call.method != "add"):
            outcome, result = None, None
        else:
            outcome = shelf.after(Call("activate", call.number) if call.method == "activate_failing" else call)
            result = outcome.result
        active = frozenset(number + 1 for number in shelf.active)
        if call.method == "run":
            mapped = tuple(n + 1 if n + 1 in active else 0 for n in program.batches[call.number])
        ids = tuple(one if one in active else 0 for one in mapped)
        registered = frozenset(number + 1 for number in shelf.registered)
        may_fail = result is None or misfit
        turns.append(Turn(call, result, may_fail, registered, active, ids if "run" in call.method else ()))
    return turns
