"""Adapters written the way PEFT's ``save_pretrained`` writes them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file

from lora_compat.model_adapters import Adapter
from strategies.cases import AdapterSpec


def write_adapter(directory: Path, adapter: Adapter, parts: dict[str, AdapterSpec]) -> None:
    """Writes ``adapter``; ``parts`` has the rank and alpha of each checkpoint module."""
    config = {
        "task_type": None,
        "base_model_name_or_path": "",
        "bias": "none",
        **peft_config(parts),
        "modules_to_save": None,
        "use_dora": False,
    }
    tensors = {}
    for name, module in adapter.modules.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = module.lora_a.contiguous()
        tensors[f"base_model.model.{name}.lora_B.weight"] = module.lora_b.contiguous()
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "adapter_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    save_file(tensors, directory / "adapter_model.safetensors")


def peft_config(parts: Mapping[str, AdapterSpec]) -> dict[str, object]:
    """What ``adapter_config.json`` says of the rank and alpha of each checkpoint module.

    The config's own rank and alpha are the first module's; where others differ they stand in the patterns, under
    the whole name, which is what the last parts of a name may grow to.
    """
    first = next(iter(parts.values()))
    return {
        "peft_type": "LORA",
        "r": first.rank,
        "lora_alpha": first.alpha,
        "use_rslora": first.rslora,
        "target_modules": sorted({name.rpartition(".")[2] for name in parts}),
        "rank_pattern": {re.escape(name): part.rank for name, part in parts.items() if part.rank != first.rank},
        "alpha_pattern": {re.escape(name): part.alpha for name, part in parts.items() if part.alpha != first.alpha},
    }
