"""The calls of a program as statements, and what must come of the last one."""

from __future__ import annotations

import math
from dataclasses import dataclass

from conformance.judging.anomalies.partial_sums import sums_partials
from conformance.subjects.calls import Call
from conformance.test_files.dialects import Dialect
from conformance.test_files.plays import Play, Turn
from conformance.test_files.ranks import right_rank
from conformance.test_files.scenes import paths_of
from conformance.test_files.script import handed, names_one_of, raises, taken
from conformance.values.linear import rank_input

_OF_THE_RANK = ("RANK-1", "RANK-2", "RANK-3", "RANK-4")  # the warm-up's, whatever comes out of the layers
_DEFAULT = 8  # the rank that a model's warm-up starts from
_CRASHES = "(AssertionError, AttributeError, IndexError, TypeError, StopIteration)"


@dataclass(frozen=True, slots=True)
class Ending:
    """Statements for a play in one library's words."""

    play: Play
    words: Dialect

    @property
    def compares(self) -> bool:
        """Whether ``outputs`` of a layer are compared."""
        if self.play.clause in _OF_THE_RANK:
            return False
        return self.play.compares and self.play.anomaly not in ("raised", "wrapped-twice", "rank-indivisible")

    def lines(self) -> list[str]:
        """All turns, and after the last what it came to."""
        play, program = self.play, self.play.program
        if play.anomaly == "wrapped-twice":
            module = next(one for one in program.model.linears if one.alias)
            one, other = (play.names()[name] for name in (module.name, module.alias))
            return [f"assert model.{one} is model.{other}"]
        if play.clause == "RANK-5":
            served = [f"assert 0 < dummy_rank <= {program.max_rank}", *self._forward()]
            return [*self._input(play.layer[0]), *self.words.warmed_up(play, served)]
        if play.clause in _OF_THE_RANK:
            return self.words.warmed_up(play, [f"assert dummy_rank {self._warm_up_rank()}"])
        explains = play.clause == "LIFE-3" and play.anomaly == "unclear-refusal"
        before = [turn for turn in play.turns[:-1] if not (explains and self._same_adapter(turn))]
        lines = [line for turn in before for line in self._turn(turn)]
        return [*lines, *self._last(play.turns[-1])]

    def _warm_up_rank(self) -> str:
        """What the rank of a model's warm-up must come to, after ``dummy_rank``."""
        program, cases = self.play.program, self.play.values.cases
        cut = [one.layer_tp_size for one in cases if program.fully_sharded and one.layer.family.shards_output]
        multiple = math.lcm(*cut)
        if self.play.clause == "RANK-1":
            return f"in range({multiple}, {program.max_rank + 1}, {multiple})"
        return f"== {right_rank(_DEFAULT, program.max_rank, multiple)}"

    def _same_adapter(self, turn: Turn) -> bool:
        return turn.call.method == "add" and turn.call.number == self.play.turns[-1].call.number

    def _turn(self, turn: Turn) -> list[str]:
        if turn.call.method == "run":
            return self.words.mapped(self.play, turn.ids)
        if turn.call.method == "rerun":
            return []
        done = self._does(turn)
        if not turn.may_fail:
            return done
        refused = turn.result is None and self.play.clause == "LIFE-2"
        return _inside("pytest.raises(Exception)" if refused else "suppress(Exception)", done)

    def _does(self, turn: Turn) -> list[str]:
        at = next(at for at, one in enumerate(self.play.turns) if one is turn)
        added = at > 0 and self.play.turns[at - 1].call == Call("add", turn.call.number)  # which is a use
        lines = self.words.does(turn.call, looks=self.play.program.evict and not added)
        if turn.call.method != "activate_failing" or turn.result is not None:
            return lines
        adapted = self.play.program.adapters[turn.call.number].adapted
        module = self.play.program.model.linears[adapted[self.play.program.seed % len(adapted)]]
        target, _, name = f"model.{self.play.names()[module.name]}.{self.words.loader}".rpartition(".")
        broken = f'patched.setattr({target}, "{name}", None)  # no copy gets there'
        return raises(broken, *lines, context="pytest.MonkeyPatch.context() as patched")

    def _last(self, turn: Turn) -> list[str]:
        """The call that failed, and the assertion about it."""
        play = self.play
        if turn.call.method in ("run", "rerun"):
            mapped = self.words.mapped(play, turn.ids) if turn.call.method == "run" else []
            if not self.compares:
                return [*mapped, *self._every_forward()]
            return [*mapped, *self._input(play.layer[0]), *self._forward()]
        if play.anomaly == "refused-wrongly" and turn.result is None:  # a place was free only as somebody was lost
            note = "# The next call is refused rightly: what is wrong is who is there already."
            return [note, *self._people(play.turns[-2])]
        done = self._does(turn)
        shows_state = play.anomaly in ("wrong-eviction", "state-lost")
        if shows_state and play.clause == "LIFE-3":
            state = f"{self.words.registered}, {self.words.active}"
            return [f"before = {state}", *_inside("suppress(Exception)", done), f"assert before == ({state})"]
        if shows_state:
            return [*(_inside("pytest.raises(Exception)", done) if turn.result is None else done), *self._people(turn)]
        if play.anomaly == "unclear-refusal":
            return self._explained(turn, done)
        if play.anomaly == "not-refused" and play.clause == "LIFE-3":
            misfit = play.program.adapters[turn.call.number].misfit.value
            absent = f"assert {turn.call.number + 1} not in {self.words.active}  # misfit: {misfit}"
            return [*_inside("suppress(Exception)", done), absent]
        if play.anomaly in ("not-refused", "fault-swallowed"):
            return _inside("pytest.raises(Exception)", done)
        if play.anomaly == "wrong-answer":
            return [*done[:-1], f"assert {done[-1]} is {turn.result}"]
        return done

    def _people(self, turn: Turn) -> list[str]:
        """Who must be there after ``turn``."""
        people = ((self.words.registered, turn.registered), (self.words.active, turn.active))
        right = [f"{{{', '.join(map(str, sorted(ids)))}}}" if ids else "set()" for _, ids in people]
        return [f"assert {told} == {ids}" for (told, _), ids in zip(people, right, strict=True)]

    def _explained(self, turn: Turn, done: list[str]) -> list[str]:
        if self.play.clause == "LIFE-2":
            crashes = [f"crashes = {_CRASHES}", "assert not isinstance(caught.value, crashes)"]
            return [*_inside("pytest.raises(Exception) as caught", done), *crashes]
        added = self.words.does(Call("add", turn.call.number), looks=False) if turn.call.method != "add" else []
        names = tuple(self.play.adapter(turn.call.number)) + tuple(self.play.names().values())
        return [
            *raises(*added, *done),
            "said = str(caught.value)  # names the module, and what was expected",
            *names_one_of("name", tuple(dict.fromkeys(names))),
            'assert len(re.findall(r"\\d+", said)) >= 2',
        ]

    def _forward(self) -> list[str]:
        """``outputs`` of the layer that is wrong, given ``x``."""
        case, paths = self.play.case, paths_of(self.play.case)
        forward = f"model.{self.play.names()[self.play.layer[1]]}(x)"
        return taken(forward, paths[:1] if sums_partials(case) else paths)

    def _every_forward(self) -> list[str]:
        lines = []
        for index, module in enumerate(self.play.program.model.linears):
            lines += [*self._input(index), *(f"model.{self.play.names()[name]}(x)" for name in module.names)]
        return lines

    def _input(self, index: int) -> list[str]:
        """``x`` of a layer."""
        case, tensors = self.play.values.cases[index], self.play.values.tensors[index]
        return handed([rank_input(case, tensors, rank) for rank in range(case.tp_size)])


def _inside(context: str, lines: list[str]) -> list[str]:
    """The last of ``lines``, with its own ``with`` if it has one, inside a context."""
    at = max(number for number, line in enumerate(lines) if not line.startswith(" "))
    before, head, inner = lines[:at], lines[at], lines[at + 1 :]
    if head.startswith("with "):
        return [*before, f"with {context}, {head.removeprefix('with ')}", *inner]
    return [*before, *raises(head, context=context)]
