"""What is written runs as it is, says what it is about, and looks as if somebody had written it."""

from __future__ import annotations

import ast
import math
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from unittest.mock import patch

import pytest
import torch

from conformance.judging.facts import AFTER_A_RESET, Aspect, Difference, Place, Sighting
from conformance.test_files.layout import CannotWrite
from conformance.test_files.literals import INTEGERS, tensor_text
from conformance.test_files.lora_compat_dialect import LoraCompat
from conformance.test_files.vllm_dialect import Vllm
from conformance.test_files.writer import DIALECTS, file_name, proved, write, write_all
from lora_compat.embeddings import LoRAEmbedding
from lora_compat.errors import LoRAError
from lora_compat.expert_adapters import LoRAExperts
from lora_compat.wrapper import LoRALinear
from strategies.cases import Case, Dtype, LayerSpec, Quantization, Regime
from strategies.codec import Spec
from strategies.experts import ExpertsCase
from strategies.programs import Program
from strategies.subclasses import SubclassSpec
from strategies.trees import ModelSpec
from strategies.vocabulary import VocabularyCase
from tests.experts import planted as of_experts
from tests.manager.planted import MUTANTS as OF_MODELS
from tests.mutants import MUTANTS
from tests.mutants.planting import planted_in
from tests.quantization import planted as of_schemes
from tests.regressions_writer.examples import (
    CASES,
    CUT_EXPERTS,
    DUMMIES,
    FUSED_EXPERTS,
    IN_THREE_D,
    LM_HEAD,
    NO_TOKENS,
    REUSED_EXPERTS,
    SCALED_IDS,
    SCALED_LOGITS,
    SHARDED_EXPERTS,
    WRONG_NUMBER,
    entry_of,
    forms_of,
)
from tests.regressions_writer.models import SEEN, SKIPPING, in_layer
from tests.suite import ROOT
from tests.vocabulary import planted as of_vocabularies

ROOMS = (of_schemes, of_vocabularies, of_experts)
BY_NAME = {one.name: one for one in (*MUTANTS, *(bug for room in ROOMS for bug in planted_in(room)))}
MODEL_BUGS = {mutant.name: mutant for mutant in OF_MODELS}
PLANTED = {
    "never-added": ("MATH-1", "delta-dropped", Case()),
    "minus-one-is-the-last-slot": ("MATH-3", "adapter-leak", Case(tokens=(0, -1))),
    "padding-of-a-not-cleared": ("MATH-5", "stale-slot", Case(max_rank=8)),
    "exact-type-dispatch": ("WRAP-1", "not-wrapped", Case(subclass=SubclassSpec(depth=1))),
    "whatever-has-a-weight-is-a-layer": ("WRAP-6", "not-refused", Case(seed=1)),
    "refusal-without-the-class": ("WRAP-6", "unclear-refusal", Case()),
    "marked-before-checked": ("WRAP-6", "base-changed", Case(seed=1)),
    "scratch-space-in-the-input": ("MATH-7", "input-written", IN_THREE_D),
    "a-dummy-that-adds": ("RANK-5", "adapter-leak", Case(max_rank=32)),
    "a-dummy-of-local-rows": ("RANK-5", "raised", DUMMIES),
    "only-dense-weights-are-watched": ("WRAP-8", "weight-stolen", Case(quantization=Quantization.INT8, seed=1)),
    "any-floating-point-weight-is-dense": (
        "WRAP-8",
        "unexplained",
        Case(quantization=Quantization.FP8_CHANNEL, seed=1),
    ),
    "ids-are-masked-in-place": ("MATH-14", "input-written", VocabularyCase(original=5, tp_size=2, ids=(4,))),
    "a-smaller-adapter-leaves-the-rest": ("MATH-14", "stale-slot", VocabularyCase(reused=True)),
    "experts-without-an-adapter-are-left": ("MATH-16", "stale-slot", REUSED_EXPERTS),
    "the-contribution-is-not-scaled": ("MATH-14", "unexplained", SCALED_IDS),
    "the-scale-is-dropped": ("MATH-15", "unexplained", SCALED_LOGITS),
    "no-ids-are-their-own-embeddings": ("MATH-14", "base-forward-bypassed", VocabularyCase(tokens=(), ids=())),
    "no-tokens-have-no-logits": ("MATH-15", "base-forward-bypassed", NO_TOKENS),
    "down-is-not-scaled": ("MATH-16", "unexplained", ExpertsCase(seed=3)),
    "fused-halves-are-interleaved": ("MATH-16", "unexplained", FUSED_EXPERTS),
    "only-the-first-expert-of-a-token": ("MATH-16", "unexplained", FUSED_EXPERTS),
    "hidden-of-down-is-not-summed": ("MATH-16", "unexplained", CUT_EXPERTS),
    "experts-are-not-counted": ("RANK-6", "rank-indivisible", CUT_EXPERTS),
    "whole-experts-are-counted": ("RANK-6", "rank-not-smallest", SHARDED_EXPERTS),
    "a-dummy-of-ones": ("RANK-6", "adapter-leak", ExpertsCase()),
    "scaling-lost": ("MATH-12", "scale-dropped", CASES[15][2]),
}


def text_of(clause: str, anomaly: str, case: Spec, dialect: LoraCompat | Vllm, seen: Sighting = WRONG_NUMBER) -> str:
    entry = entry_of(clause, anomaly, case, seen)
    return write(entry, entry.failures[0], dialect, "fails somewhere.")


def run_test(text: str) -> None:
    """Runs the one test of a file in this process."""
    module = ModuleType("emitted")
    exec(compile(text, "emitted.py", "exec"), module.__dict__)
    (test,) = (value for name, value in vars(module).items() if name.startswith("test_"))
    narrow = "torch.set_default_dtype(torch.bfloat16)" in text
    torch.set_default_dtype(torch.bfloat16 if narrow else torch.float32)
    try:
        test()
    finally:
        torch.set_default_dtype(torch.float32)


ENTRIES = [*(entry_of(*one) for one in CASES), *(seen.entry for seen in SEEN)]


@pytest.fixture(scope="module")
def written() -> list[tuple[str | CannotWrite, ...]]:
    """What each of `ENTRIES` is as a file for lora_compat and for plain vLLM; ruff is asked once for all of them."""
    given = [(entry, entry.failures[0]) for entry in ENTRIES]
    return [
        tuple(one if isinstance(one, CannotWrite) else proved(one, *found, "fails somewhere.") for one in files)
        for found, files in zip(given, write_all(given), strict=True)
    ]


@pytest.mark.parametrize("number", range(len(CASES)), ids=lambda number: "-".join(CASES[number][:2]))
def test_the_file_for_lora_compat_passes_on_the_reference(number: int, written: list[tuple[str, ...]]) -> None:
    run_test(written[number][0])


@pytest.mark.parametrize("name", PLANTED)
def test_the_file_fails_where_the_bug_is(name: str) -> None:
    text = text_of(*PLANTED[name], LoraCompat())
    with BY_NAME[name].patch(), pytest.raises((AssertionError, AttributeError, LoRAError)):
        run_test(text)
    run_test(text)


@pytest.mark.parametrize(
    "number", range(len(SEEN)), ids=lambda number: f"{SEEN[number].clause} {SEEN[number].anomaly}"
)
def test_the_file_of_a_model_passes_on_the_reference_and_fails_where_the_bug_is(
    number: int, written: list[tuple[str, ...]]
) -> None:
    text, bug = written[len(CASES) + number][0], SEEN[number].bug
    run_test(text)
    if bug:
        with MODEL_BUGS[bug].patch(), pytest.raises((AssertionError, LoRAError, pytest.fail.Exception)):
            run_test(text)


def test_every_form_has_a_file(written: list[tuple[str | CannotWrite, ...]]) -> None:
    for dialect, files in zip(DIALECTS, zip(*written, strict=True), strict=True):
        expected = len(forms_of(dialect.impl)) + len(SEEN)
        assert sum(isinstance(one, str) for one in files) == expected, dialect.impl


def test_files_are_formatted_typed_and_short(
    written: list[tuple[str | CannotWrite, ...]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("written")
    for number, (entry, files) in enumerate(zip(ENTRIES, written, strict=True)):
        for dialect, text in zip(DIALECTS, files, strict=True):
            if isinstance(text, CannotWrite):
                continue
            # A PEFT directory takes a config, and lines that save and load it.
            assert text.count("\n") < (100 if "CONFIGS" in text else 80), text
            name = f"test_{dialect.impl}_{number}_{file_name(entry, entry.failures[0], dialect)}"
            (directory / name).write_text(text)
    ours = 'lint.isort.known-first-party=["lora_compat"]'
    ruff = ["-m", "ruff", "--isolated", "--config", ours]
    for tool in (
        [*ruff, "format", "--check", "--diff", "--line-length", "88"],
        [*ruff, "check", "--select", "E,F,W,I,UP,B,C4,SIM", "--ignore", "B017", "--line-length", "88"],
        [
            "-m",
            "mypy",
            "--config-file",
            str(strict(directory, tmp_path_factory.mktemp("configuration"))),
        ],  # of both, as it reads torch once
    ):
        command = [sys.executable, *tool, str(directory)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def strict(directory: Path, elsewhere: Path) -> Path:
    """All of mypy's checks but those that a library which is not installed fails: nobody knows its classes.

    For other modules it is what `make check` asks, so that mypy takes torch from that run's cache.
    """
    modules = ", ".join(f'"{file.stem}"' for file in directory.glob("*.py"))
    of_files = ["disallow_subclassing_any = false", 'disable_error_code = ["override"]']
    path = elsewhere / "pyproject.toml"
    path.write_text(
        "\n".join(
            [(ROOT / "pyproject.toml").read_text(), "[[tool.mypy.overrides]]", f"module = [{modules}]", *of_files]
        )
    )
    return path


def test_the_file_for_plain_vllm_imports_nothing_of_this_project(
    written: list[tuple[str | CannotWrite, ...]],
) -> None:
    allowed = {"torch", "vllm", "pytest", "safetensors", *sys.stdlib_module_names}
    for text in (files[1] for files in written if isinstance(files[1], str)):
        for node in ast.walk(ast.parse(text)):
            names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert {name.partition(".")[0] for name in names} <= allowed, names


def test_the_docstring_says_what_a_stranger_asks(snapshot) -> None:
    entry = entry_of("MATH-3", "adapter-leak", Case(tokens=(-1, 0)))
    text = write(entry, entry.failures[0], LoraCompat(), "fails on X in a fresh process, for this reason.")
    assert text == snapshot
    assert write(entry, entry.failures[0], Vllm(), "NOT PROVED, it has not been run.") == snapshot


def test_what_has_no_form_as_a_file_is_said_so() -> None:
    with pytest.raises(CannotWrite, match="this project's own"):
        text_of("WRAP-8", "weight-stolen", Case(quantization=Quantization.INT8), Vllm())
    with pytest.raises(CannotWrite, match="max_lora_rank of 24"):
        text_of("RANK-2", "rank-not-smallest", Program(max_rank=24), Vllm())
    with pytest.raises(CannotWrite, match="mixtures of experts"):
        text_of("MATH-16", "unexplained", ExpertsCase(), Vllm())
    with pytest.raises(CannotWrite, match="id that was added"):
        text_of("MATH-14", "unexplained", VocabularyCase(added=1), Vllm())
    with pytest.raises(CannotWrite, match="kernel"):
        text_of("MATH-11", "base-misquantized", Case(quantization=Quantization.INT8), LoraCompat())
    with pytest.raises(CannotWrite, match="does not end"):
        text_of("UNWRAP-4", "endless-search", Case(seed=1), Vllm())
    with pytest.raises(CannotWrite, match="one rank by itself"):
        text_of("COMM-2", "collective-mismatch", Case(), LoraCompat())


@pytest.mark.parametrize(
    ("clause", "case", "cls"),
    [
        ("MATH-5", Case(), LoRALinear),
        ("MATH-14", VocabularyCase(reused=True), LoRAEmbedding),
        ("MATH-15", VocabularyCase(LM_HEAD, reused=True), LoRALinear),
        ("MATH-16", ExpertsCase(reused=True, seed=3), LoRAExperts),
    ],
)
def test_a_slot_that_keeps_its_adapter_through_a_reset_is_shown_with_the_reset(
    clause: str, case: Spec, cls: type
) -> None:
    fact = Difference(Aspect.VALUE, math.nan, 1.0, 0, (0, 0), after=AFTER_A_RESET)
    text = text_of(clause, "stale-slot", case, LoraCompat(), Sighting(fact, Place(rank=0)))
    run_test(text)
    with patch.object(cls, "reset_lora", lambda self, slot: None), pytest.raises(AssertionError):
        run_test(text)


def test_a_file_of_a_narrow_dtype_makes_it_the_default() -> None:
    case = Case(dtype=Dtype.BFLOAT16, regime=Regime.ROUNDED)
    assert "torch.set_default_dtype(torch.bfloat16)" in text_of("MATH-10", "delta-imprecise", case, LoraCompat())


def test_a_layer_of_several_tensors_runs_under_the_dummy_and_not_before() -> None:
    program = Program(ModelSpec((SKIPPING,)))
    text = text_of("RANK-5", "adapter-leak", program, LoraCompat(), in_layer(None, SKIPPING.name, 2.0, 1.0))
    assert text.index("warmed_up(") < text.index("result = model.gate(")
    run_test(text)


def test_a_tensor_of_many_integers_is_a_formula_that_gives_the_same_tensor() -> None:
    wide = torch.arange(60).remainder(9).sub(4.0).view(3, 20)
    namespace: dict[str, object] = {"torch": torch}
    exec(INTEGERS, namespace)
    assert tensor_text(wide).startswith('integers("')
    assert torch.equal(eval(tensor_text(wide), namespace), wide)
    assert torch.equal(eval(tensor_text(wide / 2), namespace), wide / 2)
    for plain in (wide[:, :3], wide + 1, wide + 0.3):  # few, too large for a digit, no multiples of one number
        assert tensor_text(plain).startswith("torch.tensor(")


def test_a_file_with_a_formula_passes_on_the_reference_and_fails_where_the_bug_is() -> None:
    case = Case(layer=LayerSpec(input_size=48))
    text = text_of("MATH-1", "delta-dropped", case, LoraCompat())
    assert 'integers("' in text or "    integers(" in text
    assert text.count("def integers(") == 1
    run_test(text)
    with BY_NAME["never-added"].patch(), pytest.raises(AssertionError):
        run_test(text)
