"""``lora-compat map``: where a model's loader puts its checkpoint, and what vLLM declares differently."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from conformance.engines.ranks import RankGroup
from conformance.implementations.protocol import MissingPrerequisite
from conformance.suite.exits import Exit
from lora_compat.checkpoint_map import CheckpointFormatError, CheckpointMap, LoaderStopped, shapes_in
from lora_compat.checkpoint_map.printing import folded


def add_parser(subparsers: Any) -> None:
    """Declares the command and its options."""
    parser = subparsers.add_parser(
        "map",
        help="print where a model's loader puts each tensor of its checkpoint",
        description="Hands vLLM's loader of a model a checkpoint of numbers and looks where they are; says where "
        "vLLM's declarations for LoRA (packed modules, mappers, embedding modules) say otherwise.",
        epilog="exit codes: 0 the declarations agree, 1 they do not, 2 the loader or vLLM stopped, 4 usage",
    )
    parser.add_argument(
        "directory", type=Path, metavar="MODEL_DIR", help="a config.json and *.safetensors; no weight is read"
    )
    parser.add_argument("--rank", default="0/1", metavar="I/N", help="of rank I of N (default 0/1)")
    parser.add_argument("--quiet", action="store_true", help="leave the map out, print what disagrees")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Prints the map and the contradictions."""
    group, dtype = _group(arguments.rank), _dtype(arguments.directory)
    try:
        shapes = shapes_in(arguments.directory)
        bare = importlib.import_module("conformance.implementations.vllm.models.bare")
        declarations = importlib.import_module("conformance.implementations.vllm.models.declarations")
        with bare.bare_model(arguments.directory.resolve(), dtype, group) as (model, _):
            found = CheckpointMap.of(model, shapes, restore=False)
            differing = list(declarations.contradictions(found, declarations.Declarations(model)))
    except (CheckpointFormatError, MissingPrerequisite) as error:
        raise _usage(str(error)) from error
    except LoaderStopped as error:
        print(f"lora-compat: {error}", file=sys.stderr)
        return Exit.ERROR
    except Exception as error:  # whatever vLLM raises for a configuration that it does not take
        said = " ".join(str(error).split())[:300]
        print(f"lora-compat: vLLM does not build this model: {type(error).__name__}: {said}", file=sys.stderr)
        return Exit.ERROR
    if not arguments.quiet:
        print(found)
    for line in folded(differing):
        print(f"declared otherwise: {line}")
    return Exit.FAILED if differing else Exit.OK


def _group(text: str) -> RankGroup:
    rank, slash, size = text.partition("/")
    if not (slash and rank.isdigit() and size.isdigit() and int(rank) < int(size)):
        raise _usage(f"--rank {text!r} is no rank of a group, for instance 0/2 or 1/2")
    return RankGroup(int(rank), int(size), lambda rank, issued, tensor: [tensor] * int(size))


def _dtype(directory: Path) -> torch.dtype:
    file = directory / "config.json"
    if not file.is_file():
        raise _usage(f"{str(directory)!r} has no config.json; give the directory of a checkpoint")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise _usage(f"{str(file)!r} is not JSON: {error}") from error
    name = content.get("dtype") or content.get("torch_dtype") or "bfloat16"
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise _usage(f"{str(file)!r} has dtype {name!r}, which torch does not have; for instance 'bfloat16'")
    return dtype


def _usage(said: str) -> pytest.UsageError:
    return pytest.UsageError(" ".join(said.split()))
