"""The warm-up rank (RANK-1 to RANK-4): regression files that need no layer, and what it must be for a model."""

from __future__ import annotations

import math

from conformance.test_files.dialects import Dialect
from conformance.test_files.lora_compat_dialect import LoraCompat
from conformance.test_files.plays import Play
from strategies.ranks import RankQuestion

_DEFAULT = 8  # the rank that a model's warm-up starts from

_VLLM = """from types import SimpleNamespace

import vllm.platforms
from vllm.platforms.cpu import CpuPlatform

vars(vllm.platforms)["_current_platform"] = CpuPlatform()  # before the rest of vLLM

from vllm.lora.model_manager import LoRAModelManager

CUTS = {shards}  # into how many parts each module cuts the rank


def chosen_rank() -> int:
    cutting = [SimpleNamespace(fully_sharded=cut > 1, tp_size=cut) for cut in CUTS]
    modules = {{str(index): module for index, module in enumerate(cutting)}}
    config = SimpleNamespace(fully_sharded_loras=True, max_lora_rank={maximum})
    manager = SimpleNamespace(lora_config=config, modules=modules)
    choose = getattr(LoRAModelManager, "get_dummy_lora_warmup_rank", None)
    return choose(manager, {default}) if choose else {default}
"""
_LORA_COMPAT = """from lora_compat import warmup_rank

CUTS = {shards}  # into how many parts each module cuts the rank


def chosen_rank() -> int:
    return warmup_rank(default={default}, max_lora_rank={maximum}, shards=CUTS)
"""


def write(clause: str, question: RankQuestion, dialect: Dialect, told: str) -> str:
    """The file."""
    ours = isinstance(dialect, LoraCompat)
    head = (_LORA_COMPAT if ours else _VLLM).format(
        shards=repr(question.shards), maximum=question.max_lora_rank, default=question.default
    )
    test = "\n".join([f"def test_{clause.lower().replace('-', '_')}() -> None:", *_verdict(clause, question)])
    noqa = "" if ours else "# ruff: noqa: E402\n\n"
    text = f"{told}\n\n{noqa}{head}\n\n{test}\n"
    return _with_pytest(text, ours) if "pytest." in test else text


def _with_pytest(text: str, ours: bool) -> str:
    before, gap = ("from lora_compat", "\n") if ours else ("import vllm.platforms", "")
    return text.replace(f"\n{before}", f"\nimport pytest\n{gap}{before}", 1)


def _verdict(clause: str, question: RankQuestion) -> list[str]:
    multiple = math.lcm(*question.shards)
    most = question.max_lora_rank
    if clause == "RANK-1":
        return ["    rank = chosen_rank()", f"    assert rank % {multiple} == 0", f"    assert 0 < rank <= {most}"]
    if clause in ("RANK-2", "RANK-3"):
        right = question.default if clause == "RANK-3" else -(-question.default // multiple) * multiple
        return [f"    assert chosen_rank() == {right}"]
    if multiple <= most:
        return [f"    assert chosen_rank() == {most // multiple * multiple}"]
    return [
        "    with pytest.raises(Exception) as caught:",
        "        chosen_rank()",
        "    # the error names the default, the multiple and the maximum",
        f"    for number in {(question.default, multiple, most)}:",
        "        assert str(number) in str(caught.value)",
    ]


def warm_up_rank(play: Play) -> str:
    """What the rank of a model's warm-up must come to, after ``dummy_rank``."""
    program, most = play.program, play.program.max_rank
    cut = [
        case.layer_tp_size for case in play.values.cases if program.fully_sharded and case.layer.family.shards_output
    ]
    multiple = math.lcm(*cut)
    smallest = -(-_DEFAULT // multiple) * multiple
    if play.clause == "RANK-1":
        return f"in range({multiple}, {most + 1}, {multiple})"
    return f"== {smallest if smallest <= most else most // multiple * multiple}"
