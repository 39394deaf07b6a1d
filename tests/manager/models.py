"""Small models for the tests: the same modules once as torch's layers and once as tensor-parallel ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import lora_compat
from lora_compat import Adapter, LoRAConfig, LoRAManager, ModuleAdapter, PackedModules

PACKED = PackedModules({"qkv_proj": ("q_proj", "k_proj", "v_proj")})
WIDTH = 4
SIZES = {"attn.q_proj": 4, "attn.k_proj": 2, "attn.v_proj": 2, "attn.o_proj": 4, "mlp.gate": 3}
CONFIG: dict[str, Any] = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "bias": "none"}


class Served(nn.Module):
    """Packed attention, a row-parallel projection, a gate under two names, and what carries no LoRA."""

    def __init__(self) -> None:
        super().__init__()
        self.attn, self.mlp, self.head = nn.Module(), nn.Module(), nn.Linear(WIDTH, WIDTH)
        self.attn.qkv_proj = lora_compat.QKVParallelLinear(WIDTH, 2, 2, 1, return_bias=False)
        self.attn.o_proj = lora_compat.RowParallelLinear(WIDTH, 4, return_bias=False)
        self.mlp.gate = lora_compat.ReplicatedLinear(WIDTH, 3, return_bias=False)
        self.mlp.runner = nn.Module()
        self.mlp.runner.gate = self.mlp.gate
        generator = torch.Generator().manual_seed(0)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator)
        self.requires_grad_(False)

    def outputs(self, x: Tensor) -> dict[str, Tensor]:
        """What each checkpoint module contributes for ``x [tokens, 4]``."""
        q, k, v = self.attn.qkv_proj(x).split([4, 2, 2], dim=-1)
        o, gate = self.attn.o_proj(x), self.mlp.gate(x)
        return dict(zip(SIZES, (q, k, v, o, gate), strict=True))


def managed(**options: Any) -> tuple[Served, LoRAManager]:
    """A model and its manager, two slots of rank 4 unless ``options`` say otherwise."""
    model = Served()
    config = LoRAConfig(max_loras=options.pop("max_loras", 2), max_lora_rank=4)
    return model, LoRAManager(model, config, packed_modules=PACKED, **options)


def adapter(*names: str, rank: int = 2, seed: int = 1, scaling: float = 0.5) -> Adapter:
    """Random tensors for these checkpoint modules."""
    generator = torch.Generator().manual_seed(seed)
    return Adapter(
        {
            name: ModuleAdapter(
                torch.randn(rank, WIDTH, generator=generator),
                torch.randn(SIZES[name.replace("runner.", "")], rank, generator=generator),
                scaling,
            )
            for name in names
        }
    )


def directory(path: Path, tensors: dict[str, Tensor] | None = None, **config: Any) -> Path:
    """A PEFT directory with a rank-2 adapter of ``attn.q_proj``, changed as told; None deletes a key."""
    path.mkdir(exist_ok=True)
    merged = {key: value for key, value in (CONFIG | config).items() if value is not None}
    (path / "adapter_config.json").write_text(json.dumps(merged))
    if tensors is None:
        prefix = "base_model.model.attn.q_proj.lora_"
        tensors = {f"{prefix}A.weight": torch.ones(2, WIDTH), f"{prefix}B.weight": torch.ones(4, 2)}
    save_file(tensors, path / "adapter_model.safetensors")
    return path
