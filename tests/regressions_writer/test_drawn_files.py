"""Files of cases of every kind, as they are drawn, are as ruff leaves them: also what is too long for a line."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from hypothesis import Phase

from conformance.search.drawing import Source, draw_cases
from conformance.test_files.writer import write_all
from lora_compat.families import Family
from strategies.cases import AdapterSpec, Case, LayerSpec
from strategies.codec import Spec
from strategies.drawing import cases
from strategies.experts import experts_cases
from strategies.forwards import Forward
from strategies.program_drawing import frames, programs
from strategies.programs import Program, StepKind
from strategies.subclasses import Constructor, Loader, SubclassSpec
from strategies.target_questions import misplaced_targets, target_questions
from strategies.vocabulary import VocabularyLayer, vocabulary_cases
from tests.regressions_writer.examples import WRONG_NUMBER, entry_of
from tests.regressions_writer.test_files_of_programs import last_run

COUNT, SEED = 16, 3
PROGRAMS = programs(frames(), kinds=tuple(StepKind), steps=(0, 10))
KINDS: dict[str, tuple[Source, str, str]] = {
    "experts": (experts_cases(), "MATH-16", "unexplained"),
    "embeddings": (vocabulary_cases(VocabularyLayer.EMBEDDING), "MATH-14", "unexplained"),
    "heads": (vocabulary_cases(VocabularyLayer.LM_HEAD), "MATH-15", "unexplained"),
    "programs": (PROGRAMS, "LIFE-1", "delta-dropped"),
    "warmed_up": (PROGRAMS, "RANK-5", "adapter-leak"),
    "targets": (target_questions(), "TARGET-1", "not-wrapped"),
    "misplaced": (misplaced_targets(), "WRAP-6", "unclear-refusal"),
    "layers": (cases(), "MATH-1", "unexplained"),
    "nested": (cases(), "UNWRAP-2", "hidden-attribute"),
    "collectives": (cases(tp_sizes=(4, 8)), "COMM-1", "collective-mismatch"),
}
# A class that is drawn rarely: its loader places the last of several outputs itself.
LOADER = Case(
    layer=LayerSpec(family=Family.MERGED_COLUMN, output_sizes=(2, 2, 2, 12)),
    subclass=SubclassSpec(depth=1, constructor=Constructor.HARD_CODED, loader=Loader.REPLICATED_LAST),
    tp_size=2,
    packed=(1, 1, 1, 1),
    adapters=(AdapterSpec(present=(True, True, True, True)),),
)
# An argument of its forward that is too long for the call.
GATED = Case(subclass=SubclassSpec(depth=1, forward=Forward.EXTRA_ARGUMENT), tokens=(0,) * 6)
RARE: dict[str, tuple[Spec, ...]] = {"layers": (LOADER, GATED), "nested": (LOADER,)}
# What was once written in another way than ruff does, by kind.
LONG = {
    "experts": "    lora.set_lora(\n        0,\n        ExpertsAdapter(\n",
    "layers": "self.output_partition_sizes[3]).copy_(\n                loaded_weight\n            )\n",
    "nested": "    get_tensor_model_parallel_world_size as tensor_parallel_size,\n)\n",
    "collectives": "[[] for _ in range(8)]",
    "targets": "PACKED = {\n",
    "programs": "CONFIGS: dict[int, dict[str, Any]] = {\n",
}


@cache
def texts(kind: str) -> list[str]:
    """The files of a number of cases of a kind, for both libraries."""
    source, clause, anomaly = KINDS[kind]
    found: list[Spec] = []
    draw_cases(source, found.append, examples=COUNT, seed=SEED, phases=(Phase.generate,))
    entries = [
        entry_of(
            clause, anomaly, case, last_run(case) if clause == "LIFE-1" and isinstance(case, Program) else WRONG_NUMBER
        )
        for case in (*RARE.get(kind, ()), *found)
    ]
    files = write_all([(entry, entry.failures[0]) for entry in entries])
    return [text for each in files for text in each if isinstance(text, str)]


@pytest.mark.parametrize("kind", LONG)
def test_what_is_too_long_for_a_line_is_among_the_drawn_files(kind: str) -> None:
    assert any(LONG[kind] in text for text in texts(kind))


def test_the_files_are_as_ruff_leaves_them(tmp_path: Path) -> None:
    for kind in KINDS:
        assert len(texts(kind)) >= COUNT
        for number, text in enumerate(texts(kind)):
            (tmp_path / f"test_{kind}_{number}.py").write_text(text)
    ruff = [sys.executable, "-m", "ruff", "--isolated", "--config", 'lint.isort.known-first-party=["lora_compat"]']
    for tool in (["format", "--check", "--diff", "--line-length", "88"], ["check", "--select", "E,F,W,I"]):
        done = subprocess.run([*ruff, *tool, str(tmp_path)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
