"""The calls of a program as statements, and the assertion about the last one."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from conformance.judging.anomalies.partial_sums import sums_partials
from conformance.subjects.calls import Call
from conformance.test_files.literals import INDENT, assertion, equals, names_one_of, rows, tensor_text
from conformance.test_files.manager_words import ManagerWords
from conformance.test_files.plays import Play, Turn
from conformance.test_files.questions import warm_up_rank
from conformance.values.linear import rank_input

_OF_THE_RANK = ("RANK-1", "RANK-2", "RANK-3", "RANK-4")  # the warm-up's, whatever comes out of the layers
_SHORT = 30  # characters of an input that needs no name
_CRASHES = "(AssertionError, AttributeError, IndexError, TypeError, StopIteration)"


@dataclass(frozen=True, slots=True)
class Ending:
    """Statements for a play in one library's words."""

    play: Play
    words: ManagerWords

    @property
    def compares(self) -> bool:
        """Whether ``outputs`` of a layer are compared."""
        if self.play.clause in _OF_THE_RANK:
            return False
        return self.play.compares and self.play.anomaly not in ("raised", "wrapped-twice", "rank-indivisible")

    @property
    def summed(self) -> bool:
        """Whether only the sum over the ranks means something."""
        return self.compares and sums_partials(self.play.case)

    def lines(self) -> list[str]:
        """All turns, and after the last what it came to."""
        play = self.play
        if play.anomaly == "wrapped-twice":
            module = next(one for one in play.program.model.linears if one.alias)
            one, other = (play.names()[name] for name in (module.name, module.alias))
            return [f"assert model.{one} is model.{other}"]
        if play.clause == "RANK-5":
            *given, last = self._forward()
            served = [f"assert 0 < dummy_rank <= {play.program.max_rank}", last]
            return [*given, *self.words.warmed_up(play, served)]
        if play.clause in _OF_THE_RANK:
            return self.words.warmed_up(play, [f"assert dummy_rank {warm_up_rank(play)}"])
        explains = play.clause == "LIFE-3" and play.anomaly == "unclear-refusal"
        before = [turn for turn in play.turns[:-1] if not (explains and self._same_adapter(turn))]
        lines = [line for turn in before for line in self._turn(turn)]
        return [*lines, *self._last(play.turns[-1])]

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
        target, _, name = f"model.{self.play.names()[module.name]}.{self.words.load}".rpartition(".")
        return [
            "with pytest.MonkeyPatch.context() as patched:",
            f'{INDENT}patched.setattr({target}, "{name}", None)  # no copy gets there',
            *(INDENT + line for line in lines),
        ]

    def _last(self, turn: Turn) -> list[str]:
        """The call that failed, and the assertion about it."""
        play = self.play
        if turn.call.method in ("run", "rerun"):
            mapped = self.words.mapped(play, turn.ids) if turn.call.method == "run" else []
            return [*mapped, *(self._forward() if self.compares else self._every_forward())]
        if play.refused_rightly:
            before = play.turns[-2]
            return [
                "# The next call is refused rightly: what is wrong is who is there already.",
                *self._people(before),
            ]
        done = self._does(turn)
        if play.shows_state:
            return self._keeps_state(done) if play.clause == "LIFE-3" else self._reaches_state(turn, done)
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

    def _keeps_state(self, done: list[str]) -> list[str]:
        before = f"before = {self.words.registered}, {self.words.active}"
        after = f"assert before == ({self.words.registered}, {self.words.active})"
        return [before, *_inside("suppress(Exception)", done), after]

    def _reaches_state(self, turn: Turn, done: list[str]) -> list[str]:
        return [
            *(_inside("pytest.raises(Exception)", done) if turn.result is None else done),
            *self._people(turn),
        ]

    def _people(self, turn: Turn) -> list[str]:
        """Who must be there after ``turn``."""
        return [
            f"assert {self.words.registered} == {_set(turn.registered)}",
            f"assert {self.words.active} == {_set(turn.active)}",
        ]

    def _explained(self, turn: Turn, done: list[str]) -> list[str]:
        if self.play.clause == "LIFE-2":
            crashes = [f"crashes = {_CRASHES}", "assert not isinstance(caught.value, crashes)"]
            return [*_inside("pytest.raises(Exception) as caught", done), *crashes]
        inside = [INDENT + line for line in done]
        if turn.call.method != "add":
            added = Call("add", turn.call.number)
            inside = [*(INDENT + line for line in self.words.does(added, looks=False)), *inside]
        names = tuple(self.play.adapter(turn.call.number)) + tuple(self.play.names().values())
        return [
            "with pytest.raises(Exception) as caught:",
            *inside,
            "said = str(caught.value)  # names the module, and what was expected",
            *names_one_of("name", tuple(dict.fromkeys(names))),
            'assert len(re.findall(r"\\d+", said)) >= 2',
        ]

    def _forward(self) -> list[str]:
        """``outputs`` of the layer that is wrong."""
        name = self.play.names()[self.play.layer[1]]
        lines, x = _input(self.play.inputs())
        paths = self.play.paths()
        result = f"model.{name}({x})"
        if len(paths) == 1:
            return [*lines, f"outputs = {paths[0].replace('result', result, 1)}.tolist()"]
        return [*lines, f"result = {result}", f"outputs = [{', '.join(f'{path}.tolist()' for path in paths)}]"]

    def _every_forward(self) -> list[str]:
        lines = []
        for index, module in enumerate(self.play.program.model.linears):
            case, tensors = self.play.values.cases[index], self.play.values.tensors[index]
            given, x = _input([rank_input(case, tensors, rank) for rank in range(case.tp_size)])
            lines += [*given, *(f"model.{self.play.names()[name]}({x})" for name in module.names)]
        return lines

    def verdict(self) -> list[str]:
        """The assertion about ``outputs``, where there are any."""
        if not self.compares:
            return []
        ranks = [[value.tolist() for value in one] for one in self.play.expected()]
        expected = [one[0] if len(one) == 1 else one for one in ranks]
        alone = self.summed or self.play.program.model.tp_size == 1
        return [equals("outputs", expected[0])] if alone else assertion("outputs", expected)


def _input(inputs: list[Tensor]) -> tuple[list[str], str]:
    text = tensor_text(inputs[0])
    if all((one == inputs[0]).all() for one in inputs):
        return ([], text) if len(text) <= _SHORT else ([f"x = {text}"], "x")
    given = rows([one.tolist() for one in inputs])
    return [f"inputs = {given}  # of each rank", "x = torch.tensor(inputs[rank])"], "x"


def _set(numbers: frozenset[int]) -> str:
    return f"{{{', '.join(map(str, sorted(numbers)))}}}" if numbers else "set()"


def _inside(context: str, lines: list[str]) -> list[str]:
    """The last of ``lines``, with its own ``with`` if it has one, inside a context."""
    at = max(number for number, line in enumerate(lines) if not line.startswith(INDENT))
    before, head, inner = lines[:at], lines[at], lines[at + 1 :]
    if head.startswith("with "):
        return [*before, f"with {context}, {head.removeprefix('with ')}", *inner]
    return [*before, f"with {context}:", INDENT + head]
