"""The files for plain vLLM pass there, and fail where a bug is planted in vLLM."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any
from unittest.mock import patch

import pytest
import torch

from conformance.test_files.vllm_dialect import Vllm
from conformance.test_files.writer import write
from strategies.codec import Spec
from strategies.programs import Program
from strategies.ranks import RankQuestion
from strategies.trees import ModelSpec
from strategies.vocabulary import VocabularyCase
from tests.regressions_writer.examples import LM_HEAD, SCALED_LOGITS, entry_of
from tests.regressions_writer.models import COLUMN

pytestmark = pytest.mark.vllm

MANAGER = "vllm.lora.model_manager:LoRAModelManager.get_dummy_lora_warmup_rank"
LOGITS = "vllm.lora.layers:LogitsProcessorWithLoRA.set_lora"
TWO_RANKS = Program(ModelSpec((COLUMN,), tp_size=2), fully_sharded=True, max_rank=16)


def one_more(original: Any) -> Any:
    """The warm-up rank is one above what it should be."""
    return lambda self, default: original(self, default) + 1


def halved(original: Any) -> Any:
    """The warm-up rank is half of what it should be."""
    return lambda self, default: original(self, default) // 2


def default_alone(original: Any) -> Any:
    """The warm-up rank is the default, whatever cuts it."""
    return lambda self, default: default


def b_changes_sign(original: Any) -> Any:
    """LoRA B of the logits is written negated."""
    return lambda self, index, lora_a, lora_b: original(self, index, lora_a, -lora_b)


@dataclass(frozen=True, slots=True)
class Planted:
    """A failure that a bug of vLLM's would show."""

    clause: str
    anomaly: str
    case: Spec
    owner: str
    bug: Callable[[Any], Any]

    @contextmanager
    def alive(self) -> Iterator[None]:
        """The bug in vLLM."""
        module, _, name = self.owner.partition(":")
        cls, _, attribute = name.partition(".")
        owner = getattr(importlib.import_module(module), cls)
        with patch.object(owner, attribute, self.bug(getattr(owner, attribute))):
            yield


PLANTED = (
    Planted("RANK-1", "rank-indivisible", TWO_RANKS, MANAGER, one_more),
    Planted("RANK-2", "rank-not-smallest", TWO_RANKS, MANAGER, one_more),
    Planted("RANK-3", "rank-not-default", Program(max_rank=16), MANAGER, one_more),
    Planted("RANK-4", "rank-indivisible", replace(TWO_RANKS, max_rank=8), MANAGER, halved),
    Planted("RANK-1", "rank-indivisible", RankQuestion(shards=(3,), max_lora_rank=64), MANAGER, default_alone),
    Planted("RANK-2", "rank-not-smallest", RankQuestion(shards=(2, 3), max_lora_rank=128), MANAGER, default_alone),
    Planted("RANK-3", "rank-not-default", RankQuestion(shards=(1,)), MANAGER, one_more),
    Planted("RANK-4", "unclear-refusal", RankQuestion(shards=(32,)), MANAGER, default_alone),
    Planted("MATH-15", "unexplained", SCALED_LOGITS, LOGITS, b_changes_sign),
    Planted("MATH-15", "unexplained", replace(SCALED_LOGITS, bias=True, two_dimensions=True), LOGITS, b_changes_sign),
    Planted("MATH-15", "unexplained", VocabularyCase(LM_HEAD, original=5, tp_size=2, seed=5), LOGITS, b_changes_sign),
)


def run_test(text: str) -> None:
    """Runs the one test of a file in this process."""
    module = ModuleType("emitted")
    with torch.enable_grad():
        exec(compile(text, "emitted.py", "exec"), module.__dict__)
        (test,) = (value for name, value in vars(module).items() if name.startswith("test_"))
        with pytest.MonkeyPatch.context() as monkeypatch:
            test(**{"monkeypatch": monkeypatch} if "monkeypatch" in test.__annotations__ else {})


@pytest.mark.parametrize("planted", PLANTED, ids=lambda one: f"{one.clause} {type(one.case).__name__}")
def test_the_file_passes_on_vllm_and_fails_where_a_bug_is_planted_in_it(planted: Planted) -> None:
    entry = entry_of(planted.clause, planted.anomaly, planted.case)
    text = write(entry, entry.failures[0], Vllm(), "fails somewhere.")
    run_test(text)
    with planted.alive(), pytest.raises((AssertionError, pytest.fail.Exception)):
        run_test(text)
