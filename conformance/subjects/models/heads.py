"""What published checkpoints hold beside the weights of transformers' class: heads of vLLM's own class."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

_WIDTH = 16
_WEIGHTS = "model.safetensors"
_HIDDEN = "hidden_size"


@dataclass(frozen=True, slots=True)
class Head:
    """A head in a file of the checkpoint: ``tensors`` are shapes, in which `_HIDDEN` is the language model's."""

    file: str = _WEIGHTS
    tensors: Mapping[str, tuple[int | str, ...]] = field(default_factory=dict)


def _schema_head() -> Head:
    """Clef's, which has neither layers nor layers that route here."""
    projections = ["memory", "question", "option_question", "global", "option_context", "option_lexical"]
    norms: dict[str, int | str] = dict.fromkeys(("option_summary_norm", "field_norm", "option_norm"), _WIDTH)
    norms["hidden_norm"] = _HIDDEN
    tensors: dict[str, tuple[int | str, ...]] = {f"{one}_projection.weight": (_WIDTH, _HIDDEN) for one in projections}
    tensors |= {f"{one}.{leaf}": (size,) for one, size in norms.items() for leaf in ("weight", "bias")}
    tensors |= {"type_embedding.weight": (3, _WIDTH)}
    tensors |= {"residual_scorer.0.weight": (_WIDTH, 4 * _WIDTH), "residual_scorer.0.bias": (_WIDTH,)}
    tensors |= {"residual_scorer.3.weight": (1, _WIDTH), "residual_scorer.3.bias": (1,)}
    tensors |= dict.fromkeys(("prior_logit_scale", "joint_logit_scale", "residual_gate"), ())
    return Head("joint_head.safetensors", tensors)


_LATE: Mapping[str, tuple[int | str, ...]] = {"custom_text_proj.weight": (_WIDTH, _HIDDEN)}

HEADS: Mapping[str, tuple[Head, ...]] = {
    "BgeM3EmbeddingModel": (
        Head("sparse_linear.pt", {"weight": (1, _HIDDEN), "bias": (1,)}),
        Head("colbert_linear.pt", {"weight": (_HIDDEN, _HIDDEN), "bias": (_HIDDEN,)}),
    ),
    "ClefFlashForJointSchema": (_schema_head(),),
    "ClefOmniForJointSchema": (_schema_head(),),
    "ColQwen3": (Head(tensors={"embedding_proj_layer.weight": (_WIDTH, _HIDDEN)}),),
    "ColQwen3_5": (Head(tensors={**_LATE, "custom_text_proj.bias": (_WIDTH,)}),),
    "D3ForSequenceClassification": (Head("readout.safetensors", {"weight": (2, _HIDDEN)}),),
    "InternS1ProForConditionalGeneration": (
        Head(tensors={f"model.language_model.rotary_emb.{one}_coef": (4, 4, 4) for one in ("cos", "sin")}),
    ),
    "OpsColQwen3Model": (Head(tensors=_LATE),),
}


def head_tensors(architecture: str, hidden: int) -> dict[str, tuple[int, ...]] | None:
    """The shapes of what its checkpoints hold beside what transformers saves; None where that is in other files."""
    heads = HEADS.get(architecture, ())
    if any(one.file != _WEIGHTS for one in heads):
        return None
    return {name: _sizes(shape, hidden) for head in heads for name, shape in head.tensors.items()}


def write_heads(directory: Path, content: Mapping[str, Any], hidden: int) -> None:
    """Puts the heads of an architecture into a saved checkpoint, of a language model of that hidden size; all ones."""
    for head in HEADS.get(content["architectures"][0], ()):
        made = {name: _ones(shape, hidden) for name, shape in head.tensors.items()}
        path = directory / head.file
        if path.suffix == ".pt":
            torch.save(made, path)
        elif path.exists():
            save_file({**load_file(path), **made}, path, {"format": "pt"})
        else:
            save_file(made, path, {"format": "pt"})
            _index(directory)


def _index(directory: Path) -> None:
    """Says which file has the weights of the model itself: without it all are taken for its."""
    named = dict.fromkeys(load_file(directory / _WEIGHTS), _WEIGHTS)
    (directory / f"{_WEIGHTS}.index.json").write_text(json.dumps({"weight_map": named}), encoding="utf-8")


def _ones(shape: tuple[int | str, ...], hidden: int) -> Tensor:
    return torch.ones(_sizes(shape, hidden))


def _sizes(shape: tuple[int | str, ...], hidden: int) -> tuple[int, ...]:
    return tuple(hidden if size == _HIDDEN else int(size) for size in shape)
