"""A failing model becomes a file for plain transformers, PEFT and vLLM: red where the bug is, green without it."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from conformance.certification.clause_tests import bodies_of
from conformance.judging.verdicts import Failure, Violation
from conformance.regressions.entries import Entry, StoredFailure
from conformance.subjects.subject import Subject
from conformance.test_files.dialects import Dialect
from conformance.test_files.layout import CannotWrite
from conformance.test_files.lora_compat_dialect import LoraCompat
from conformance.test_files.vllm_dialect import Vllm
from conformance.test_files.writer import MOST_OF_A_MODEL, write
from strategies.models.adapters import SAVED_EMBEDDING, ModelAdapter
from strategies.models.cases import ModelCase
from strategies.models.configs import ConfigChoices
from strategies.models.deployments import Deployment
from tests.models import (  # noqa: F401 - register their bugs
    planted_beside_language,
    planted_in_company,
    planted_in_deployments,
    planted_in_forwards,
    planted_in_names,
)
from tests.models.planted import PLANTED, Patch, Planted, around, part
from tests.suite import ROOT

pytestmark = pytest.mark.vllm

SHOWN = (
    *("key_lost", "rows_left_unwrapped", "refusal_without_a_name", "last_layer_lost", "head_left_out"),  # MODEL-1
    "a_module_is_lost_beside_another",
    *("scaling_forgotten", "members_in_another_order", "a_member_left_out", "experts_shifted"),  # MODEL-2
    *("ids_of_an_embedding_shifted", "ids_of_a_head_shifted", "a_layer_that_was_handed_on_before_it_was_wrapped"),
    *("last_tensors_of_a_pickle_lost", "wrapping_touches_the_base"),  # MODEL-3, MODEL-4
    *("every_adapter_into_the_first_slot", "a_removed_adapter_comes_back_halved", "loading_writes_to_the_directory"),
    *("a_batch_has_the_adapter_of_its_first_token", "loaded_in_place_it_is_as_it_was"),  # MODEL-5
    *("loading_changes_what_is_kept", "adapters_of_another_dtype_are_not_scaled"),
    *("no_dummy_for_the_warm_up", "lora_refused_where_it_is_declared"),  # MODEL-6
    *("every_rank_takes_the_first_ones_rows", "every_rank_takes_the_first_ones_columns"),  # MODEL-7
    *("every_rank_takes_the_first_ones_experts", "every_rank_takes_the_first_ones_rows_of_experts"),
    "every_rank_takes_the_first_ones_share_of_experts",
    *("a_feature_is_refused_without_its_name", "towers_go_by_the_tokens_of_text"),  # MODEL-9, MODEL-10
    *("names_of_the_backend_are_those_of_no_checkpoint", "room_is_asked_of_towers_that_are_off"),
)
ON_RANKS = ("ids_of_an_embedding_shifted", "ids_of_a_head_shifted", "a_module_is_lost_beside_another")
EXPERTS = ModelAdapter((), ("experts.gate_up_proj", "experts.down_proj"))
OF_O_PROJ = Deployment(modules=("o_proj",))
FOUND = {  # in vLLM itself
    "44": ("MODEL-2", ModelCase("vaultgemma", adapter=ModelAdapter(("embed_tokens",)))),
    "46": ("MODEL-1", ModelCase("mixtral", adapter=ModelAdapter((), ("mlp.gate.weight",)))),
    "46 on disk": ("MODEL-3", ModelCase("mixtral", adapter=ModelAdapter((), ("mlp.gate.weight",)))),
    "48": ("MODEL-1", ModelCase("qwen3_moe", adapter=ModelAdapter((), ("experts.down_proj",)))),
    "48 on disk": ("MODEL-3", ModelCase("mixtral", adapter=ModelAdapter((), ("experts.gate_up_proj",)))),
    "49": ("MODEL-7", ModelCase("falcon_h1", adapter=ModelAdapter(("in_proj",)), tp_size=2)),
    "50": ("MODEL-2", ModelCase("llama4_text", adapter=ModelAdapter(("q_proj",)))),
    "75": ("MODEL-1", ModelCase("Gemma3Model", adapter=ModelAdapter(("language_model.layers.#.self_attn.q_proj",)))),
    "75 on disk": (
        "MODEL-3",
        ModelCase("Gemma3Model", adapter=ModelAdapter(("language_model.layers.#.mlp.up_proj",))),
    ),
    "52 in a folder": ("MODEL-1", ModelCase("Cosmos3ForConditionalGeneration", adapter=ModelAdapter(("qkv",)))),
    "76": ("MODEL-9", ModelCase(adapter=ModelAdapter(("o_proj", "embed_tokens"), feature=SAVED_EMBEDDING))),
    "141": ("MODEL-7", ModelCase("jamba", adapter=ModelAdapter(("q_proj",)), stages=2)),
    "112": ("MODEL-10", ModelCase("WhisperForConditionalGeneration", adapter=ModelAdapter(("encoder.layers.#.fc1",)))),
    "120": ("MODEL-7", ModelCase("qwen3_moe", ConfigChoices(experts=6), EXPERTS, tp_size=4)),
    "122": ("MODEL-7", ModelCase("deepseek_v3", ConfigChoices(groups=2), EXPERTS, tp_size=2)),
    "128": ("MODEL-11", ModelCase(adapter=ModelAdapter(("q_proj", "o_proj")), deployment=OF_O_PROJ)),
    "128 of a head": ("MODEL-11", ModelCase(adapter=ModelAdapter(("lm_head", "o_proj")), deployment=OF_O_PROJ)),
    "130": ("MODEL-2", ModelCase("deepseek_v3", adapter=ModelAdapter((), ("gate.weight",)), tp_size=2)),
    "52 of one with towers": ("MODEL-1", ModelCase("InternVLChatModel", adapter=ModelAdapter(("attn.qkv",)))),
    "52 of heads in a file": ("MODEL-1", ModelCase("ClefFlashForJointSchema", adapter=ModelAdapter(("qkv",)))),
    "132 of a skeleton": ("MODEL-2", ModelCase("SarvamMLAForCausalLM", adapter=ModelAdapter(("kv_b_proj",)))),
    "132": ("MODEL-2", ModelCase("deepseek_v2", adapter=ModelAdapter(("kv_b_proj",)))),
}
IDENTITY = {"implementation": "vllm", "torch": torch.__version__}


@pytest.fixture(scope="module")
def texts() -> Iterator[list[str]]:
    """All that was written, which ruff looks at once."""
    found: list[str] = []
    yield found
    assert found


def written(subject: Subject, clause: str, case: ModelCase) -> str:
    """The file of the failure that a case shows."""
    (body,) = bodies_of(clause)
    with pytest.raises(Violation) as caught:
        body(subject, case)
    failure = Failure.of(clause, caught.value)
    stored = StoredFailure(clause, failure.anomaly, failure.message, "vllm", IDENTITY, seen=failure.seen)
    return write(Entry(failure.case, failure.shown, (stored,)), stored, Vllm(), "fails.")


def run_text(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs the one test of a file in this process, whose groups are there already."""
    state = sys.modules["vllm.distributed.parallel_state"]
    monkeypatch.setattr(
        state, "_TP", SimpleNamespace(world_size=1, rank_in_group=0, ranks=[0], all_gather=lambda part, dim: part)
    )
    monkeypatch.setattr(state, "_PP", state._PP)  # which some files replace
    module = ModuleType("emitted")
    exec(compile(text, "emitted.py", "exec"), module.__dict__)
    (test,) = (value for name, value in vars(module).items() if name.startswith("test_"))
    test(**{"monkeypatch": monkeypatch} if "monkeypatch" in test.__annotations__ else {})


def assert_stands_alone(text: str, most: int = MOST_OF_A_MODEL) -> None:
    modules = [node for node in ast.walk(ast.parse(text)) if isinstance(node, (ast.Import, ast.ImportFrom))]
    names = {one.module or "" if isinstance(one, ast.ImportFrom) else one.names[0].name for one in modules}
    others = {name.partition(".")[0] for name in names} - sys.stdlib_module_names
    assert others <= {"peft", "pytest", "safetensors", "torch", "transformers", "vllm"}
    assert text.count("\n") <= most


@pytest.mark.parametrize(("name", "tp_size"), [*((name, 0) for name in SHOWN), *((name, 2) for name in ON_RANKS)])
def test_the_file_is_red_with_the_planted_bug_and_green_without_it(
    name: str, tp_size: int, subject: Subject, texts: list[str]
) -> None:
    bug: Planted = PLANTED[name]
    with pytest.MonkeyPatch.context() as planting:
        bug.plant(planting)
        case = replace(bug.case, tp_size=tp_size or bug.case.tp_size)
        text = written(subject, bug.clause, case)
    assert_stands_alone(text)
    texts.append(text)
    with pytest.MonkeyPatch.context() as planting:
        bug.plant(planting)
        with pytest.raises((AssertionError, KeyError, NotImplementedError, RuntimeError, ValueError)):
            run_text(text, planting)
    with pytest.MonkeyPatch.context() as clean:
        run_text(text, clean)


def test_of_what_transformers_does_not_make_the_file_has_the_adapted_modules(
    subject: Subject, texts: list[str]
) -> None:
    bug = PLANTED["scaling_forgotten"]
    with pytest.MonkeyPatch.context() as planting:
        bug.plant(planting)
        adapter = ModelAdapter(("q_proj", "out_proj", "wte"), alpha=2.0)
        text = written(subject, "MODEL-2", ModelCase("ExaoneForCausalLM", adapter=adapter))
        assert_stands_alone(text, most=125)  # of three modules, which is not plain
        texts.append(text)
        with pytest.raises(AssertionError):
            run_text(text, planting)
    with pytest.MonkeyPatch.context() as clean:
        run_text(text, clean)


@pytest.mark.parametrize("finding", FOUND)
def test_the_file_of_a_finding_is_red_on_vllm(
    finding: str, subject: Subject, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = written(subject, *FOUND[finding])
    assert_stands_alone(text)
    texts.append(text)
    with pytest.raises((AssertionError, RuntimeError, ValueError)):
        run_text(text, monkeypatch)


def refusing(monkey: pytest.MonkeyPatch) -> None:
    """Mends finding 128: an adapter of a module that LoRA is not on is refused by name."""

    def load(original: Any, self: Any, request: Any) -> Any:
        adapter, served = original(self, request), tuple(self.lora_config.target_modules)
        others = [name for name in adapter.loras if not name.endswith(served)]
        if others:
            raise ValueError(f"LoRA is on {served} alone, and the adapter has {others}")
        return adapter

    around(monkey, part("worker_manager", "WorkerLoRAManager"), "_load_adapter", load)


def counting(monkey: pytest.MonkeyPatch) -> None:
    """Mends finding 120: the first expert of a rank is the one that it has."""

    def first(self: Any) -> int:
        placed = self.base_layer.routed_experts.expert_map
        return 0 if placed is None else int((placed >= 0).nonzero()[0]) // self.local_num_experts

    monkey.setattr(part("layers", "FusedMoEWithLoRA"), "ep_rank", property(first))


@pytest.mark.parametrize(("finding", "mend"), [("120", counting), ("128", refusing), ("128 of a head", refusing)])
def test_the_file_of_a_finding_is_green_where_it_is_mended(
    finding: str, mend: Patch, subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = written(subject, *FOUND[finding])
    mend(monkeypatch)
    run_text(text, monkeypatch)


def test_what_was_written_passes_ruff(texts: list[str], tmp_path: Path) -> None:
    for number, text in enumerate(texts):
        (tmp_path / f"test_{number}.py").write_text(text, encoding="utf-8")
    config = str(ROOT / "tests" / "regressions" / "ruff.toml")
    for command in (["check"], ["format", "--check"]):
        arguments = [sys.executable, "-m", "ruff", *command, "--no-cache", "--config", config, str(tmp_path)]
        run = subprocess.run(arguments, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stdout


@pytest.mark.parametrize(
    ("target", "module", "dialect", "said"),
    [
        ("llama", "o_proj", LoraCompat(), "whole models are vLLM's"),
        ("llama", "embed_tokens", Vllm(), "older release"),
    ],
    ids=["for the reference", "in words alone"],
)
def test_what_has_no_form_is_told_in_a_line(target: str, module: str, dialect: Dialect, said: str) -> None:
    case = ModelCase(target, adapter=ModelAdapter((module,)))
    failure = Failure.of("MODEL-2", Violation("halved", "wrong", case))
    stored = StoredFailure("MODEL-2", "halved", "wrong", "vllm", seen=failure.seen)
    with pytest.raises(CannotWrite, match=said):
        write(Entry(failure.case, failure.shown, (stored,)), stored, dialect, "fails.")
