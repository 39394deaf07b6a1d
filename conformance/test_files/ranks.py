"""Tests of the warm-up rank (RANK-1 to RANK-4), which need no layer."""

from __future__ import annotations

import math

from conformance.regressions.entries import StoredFailure
from conformance.test_files.dialects import Dialect
from conformance.test_files.script import Script, raises
from strategies.ranks import RankQuestion

_CUTS = "CUTS = {}  # into how many parts each module cuts the rank"
_CHOSEN = {
    "reference": """
def chosen_rank() -> int:
    return warmup_rank(default={default}, max_lora_rank={most}, shards=CUTS)
""".strip("\n"),
    "vllm": """
def chosen_rank() -> int:
    cutting = [SimpleNamespace(fully_sharded=cut > 1, tp_size=cut) for cut in CUTS]
    modules = {{str(index): module for index, module in enumerate(cutting)}}
    config = SimpleNamespace(fully_sharded_loras=True, max_lora_rank={most})
    manager = SimpleNamespace(lora_config=config, modules=modules)
    choose = getattr(LoRAModelManager, "get_dummy_lora_warmup_rank", None)
    return choose(manager, {default}) if choose else {default}
""".strip("\n"),
}


def script_of(failure: StoredFailure, question: RankQuestion, dialect: Dialect) -> Script:
    """The question, and the contract's answer."""
    chosen = _CHOSEN[dialect.impl].format(default=question.default, most=question.max_lora_rank)
    lines = _verdict(failure.clause, question)
    return Script(lines=lines, definitions=[_CUTS.format(question.shards), chosen], world=0)


def _verdict(clause: str, question: RankQuestion) -> list[str]:
    default, most, multiple = question.default, question.max_lora_rank, math.lcm(*question.shards)
    if clause == "RANK-1":
        return ["rank = chosen_rank()", f"assert rank % {multiple} == 0", f"assert 0 < rank <= {most}"]
    if clause == "RANK-4" and multiple > most:
        return [
            *raises("chosen_rank()"),
            "# the error names the default, the multiple and the maximum",
            f"for number in {(default, multiple, most)}:",
            "    assert str(number) in str(caught.value)",
        ]
    return [f"assert chosen_rank() == {right_rank(default, most, 1 if clause == 'RANK-3' else multiple)}"]


def right_rank(default: int, most: int, multiple: int) -> int:
    """The smallest multiple from the default up, or the largest that there is room for."""
    smallest = -(-default // multiple) * multiple
    return smallest if smallest <= most else most // multiple * multiple
