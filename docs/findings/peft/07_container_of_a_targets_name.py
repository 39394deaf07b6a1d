"""A module that only holds layers, and is called as a targeted layer is, ends in an error.

Clause TARGET-1. Releases: 0.21.2.
"""

import sys

import peft
import torch
from peft import LoraConfig, get_peft_model

tower = torch.nn.ModuleDict({"proj": torch.nn.Sequential(torch.nn.LayerNorm(4))})
model = torch.nn.ModuleDict({"proj": torch.nn.Linear(4, 2), "vision": tower})
try:
    get_peft_model(model, LoraConfig(r=1, target_modules=["proj"]))
    got = "the linear layer is wrapped"
except ValueError as error:
    got = f"ValueError: {error}"
present = got != "the linear layer is wrapped"
print(f"expected: the linear layer is wrapped\ngot:      {got}")
print(f"{'PRESENT' if present else 'absent'} in PEFT {peft.__version__}")
sys.exit(int(present))
