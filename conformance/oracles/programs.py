"""The right answer for every layer of a program."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from torch import Tensor

from conformance.oracles import experts, vocabulary
from conformance.oracles.linear import Expected, expected_of
from conformance.subjects.subject import Subject
from conformance.values.experts import ExpertsTensors, with_down_of
from conformance.values.programs import ProgramValues
from conformance.values.vocabulary import VocabularyTensors
from strategies.experts import ExpertsCase


@dataclass(slots=True)
class ProgramOracle(ProgramValues):
    """The tensors of a program, and what each layer makes of them; answers are remembered."""

    _expected: dict[tuple[int, int], list[Expected]] = field(default_factory=dict)

    def expected(self, subject: Subject, index: int, tokens: tuple[int, ...]) -> list[Expected]:
        """What layer ``index`` must return on each rank where these adapters serve the tokens."""
        runs = {number: self._of_adapter(subject, index, number) for number in {*tokens, -1}}
        return [
            _by_token({number: ranks[rank] for number, ranks in runs.items()}, tokens)
            for rank in range(self.program.model.tp_size)
        ]

    def of_companion(self, index: int, tokens: tuple[int, ...], *, down: int | None = None) -> Tensor:
        """What companion ``index`` must return on every rank; of a mixture with the second product of another adapter.

        That is ``down``, which only a mixture may be given.
        """
        one = self.companions[index]
        if isinstance(one.case, ExpertsCase):
            assert isinstance(one.tensors, ExpertsTensors)
            tensors = one.tensors if down is None else with_down_of(one.tensors, down)
            return experts.dense(replace(one.case, tokens=tokens), tensors)
        assert isinstance(one.tensors, VocabularyTensors)
        return vocabulary.dense(replace(one.case, tokens=tokens), one.tensors)

    def _of_adapter(self, subject: Subject, index: int, number: int) -> list[Expected]:
        key = index, number
        if key not in self._expected:
            case = self.cases[index]
            all_tokens = replace(case, tokens=(number,) * len(case.tokens))
            self._expected[key] = expected_of(subject, all_tokens, self.tensors[index])
        return self._expected[key]


def _by_token(runs: dict[int, Expected], tokens: tuple[int, ...]) -> Expected:
    """Every token's row from the run of its own adapter."""
    base = runs[-1]
    values = []
    for position, by_token in enumerate(base.by_token):
        combined = base.values[position].clone()
        if by_token:
            for token, number in enumerate(tokens):
                combined[token] = runs[number].values[position][token]
        values.append(combined)
    return Expected(tuple(values), (), base.values, base.by_token)
