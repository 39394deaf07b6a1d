"""A usage error says what was given, what is accepted and what to do; exit code 4, no traceback."""

from __future__ import annotations

import pytest

from conformance.cli import main
from conformance.suite.exits import Exit
from tests.suite import run_suite, shown

WITHOUT_VLLM = ("-p", "tests.cli.without_vllm")
GPU = ("-p", "tests.devices.emulated_gpu")
BROKEN = "tests.implementations.broken"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--impl", "refrence"], ["'refrence'", "reference, vllm", "did you mean 'reference'"]),
        (["--impl", "no.such.module:Thing"], ["no.such.module:Thing", "importable package.module:attribute"]),
        (["--impl", f"{BROKEN}:LacksMethods"], ["LacksMethods lacks", "claimants", "dense_weight"]),
        (["--profile", "fast"], ["'fast'", "quick, default, thorough"]),
        (["--max-examples", "many"], ["'many' is not an integer", "--max-examples 7"]),
        (["--shards", "0"], ["--shards 0 is too small"]),
        (
            ["-p", "tests.cli.without_vllm", "--impl", "vllm"],
            ["vLLM is not installed", "uv pip install", "make conformance"],
        ),
        (["-p", "tests.cli.without_vllm", "--layers", "vllm"], ["vLLM is not installed", "IMPL=vllm"]),
        (["-p", "tests.cli.without_vllm", "--impl", "vllm", "-n", "2"], ["vLLM is not installed"]),
        (
            ["-p", "tests.cli.without_vllm", "--certify-model", "llama", "--impl", "reference"],
            ["--impl reference: vLLM is not installed", "IMPL=vllm"],
        ),
        (["--layers", "vllm", "--impl", "vllm"], ["--layers=vllm goes with --impl reference"]),
        (["--engine", "mpi"], ["'mpi'", "threads"]),
        (["--engine", "torchrun"], ["torchrun --nproc-per-node 2 -m pytest conformance/ --engine torchrun"]),
        (["--shard", "3/2"], ["'3/2' is no part of a run", "for instance 1/3"]),
        (["--shard", "1/2", "--baseline", "known.json"], ["give it to lora-compat merge"]),
        (["--certify", BROKEN, "--baseline", "none.json"], ["baseline none.json is not there", "--update-baseline"]),
        (["--database", "redis://localhost:1/0"], ["redis://localhost:1/0 does not answer", "start redis-server"]),
        (["--engine", "gloo", "--device", "cuda"], ["forks its ranks", "--engine nccl", "--engine threads"]),
        ([*GPU, "--engine", "gloo", "--device", "cuda"], ["forks its ranks", "--engine nccl", "--engine threads"]),
        (["--engine", "torchrun", "-n", "2"], ["one run on the ranks of one job: leave -n out"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_it_says_what_was_given_and_what_is_accepted(arguments: list[str], said: list[str]) -> None:
    result = run_suite(*arguments)
    text = shown(result)
    assert result.code == 4, text
    assert "Traceback" not in text
    assert len([line for line in text.splitlines() if line.startswith("ERROR")]) == 1, text
    assert all(part in text for part in said), text


@pytest.mark.parametrize(
    ("given", "said"),
    [("MODEL-22", "did you mean 'MODEL-2'?"), ("MATH-1", "'MATH-1' is unknown: give one of MODEL-1, ")],
)
def test_a_clause_that_is_none_of_models_is_told_the_nearest_one(given: str, said: str, capsys) -> None:
    assert main(["certify-model", "llama", "--clause", "MODEL-1", "--clause", given]) == Exit.USAGE
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.err.count("\n") == 1


def test_the_clauses_that_are_asked_of_a_model_are_those_that_pytest_selects(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(pytest, "main", lambda arguments: asked.extend(arguments) or 0)
    assert main(["certify-model", "llama", "--clause", "MODEL-2", "--clause", "MODEL-3"]) == Exit.OK
    assert asked[asked.index("-m") + 1] == "clause(id='MODEL-2') or clause(id='MODEL-3')"
    asked.clear()
    main(["certify-model", "llama"])
    assert "-m" not in asked
