"""``lora-compat map`` prints the map and what is declared otherwise; wrong directories are one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from conformance.cli import main
from tests.checkpoint_map.test_models_of_vllm import saved


@pytest.mark.parametrize(
    ("config", "weights", "arguments", "said"),
    [
        (None, None, [], "has no config.json"),
        ("{", None, [], "is not JSON"),
        ('{"dtype": "float7"}', None, [], "has dtype 'float7'"),
        ("{}", None, [], "it has no *.safetensors"),
        ("{}", b"0123456789", [], "it cannot be read, it is damaged or cut short"),
        ("{}", None, ["--rank", "2/2"], "--rank '2/2' is no rank of a group, for instance 0/2 or 1/2"),
    ],
    ids=["no config", "no JSON", "no dtype", "no weights", "damaged weights", "no rank"],
)
def test_what_cannot_be_mapped_is_said_in_one_line(
    config: str | None,
    weights: bytes | None,
    arguments: list[str],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(config, encoding="utf-8")
    if weights is not None:
        (tmp_path / "model.safetensors").write_bytes(weights)
    assert main(["map", str(tmp_path), *arguments]) == 4
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


@pytest.mark.vllm
def test_declarations_that_agree_are_not_spoken_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved("LlamaForCausalLM", tmp_path)
    assert main(["map", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "rows 0:64 = model.layers.0.self_attn.q_proj.weight[0:64]" in shown
    assert "declared otherwise" not in shown


@pytest.mark.vllm
def test_rows_that_the_loader_moves_are_told_as_the_page_shows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = Path("docs/checkpoint-map.md").read_text(encoding="utf-8")
    shown = page.partition("prints, among others:")[2].split("```")[1].strip().splitlines()
    saved("Llama4ForCausalLM", tmp_path)
    assert main(["map", str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in shown if line not in lines] == []
    assert [line for line in lines if line.startswith("declared otherwise")] == shown[-2:]


@pytest.mark.vllm
def test_tensors_in_a_layer_that_is_not_declared_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved("DeepseekV32ForCausalLM", tmp_path)
    assert main(["map", str(tmp_path), "--quiet"]) == 1
    said = capsys.readouterr().out
    assert "indexer.wk.weight is loaded into" in said
    assert "indexer.wk_weights_proj; an adapter of it is" in said


@pytest.mark.vllm
def test_a_rank_has_its_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved("LlamaForCausalLM", tmp_path)
    assert main(["map", str(tmp_path), "--rank", "1/2"]) == 0
    assert "rows 0:32 = model.layers.0.self_attn.q_proj.weight[32:64]" in capsys.readouterr().out


@pytest.mark.vllm
def test_a_tensor_that_the_loader_does_not_know_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved("LlamaForCausalLM", tmp_path)
    (file,) = tmp_path.glob("*.safetensors")
    save_file({**load_file(file), "model.layers.0.surprise.weight": torch.zeros(3, 3)}, file)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "llama"
    assert main(["map", str(tmp_path)]) == 2
    assert "stopped at 'model.layers.0.surprise.weight'" in capsys.readouterr().err


@pytest.mark.vllm
def test_a_model_that_vllm_does_not_build_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved("LlamaForCausalLM", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_attention_heads": 0}))
    assert main(["map", str(tmp_path)]) == 2
    assert "vLLM does not build this model: " in capsys.readouterr().err
