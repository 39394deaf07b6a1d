"""A subclass whose forward returns more than a tensor cannot be called any more once it has an adapter.

Clause MATH-1. Releases: 0.21.2.
"""

import sys

import peft
import torch
from peft import LoraConfig, get_peft_model

torch.set_grad_enabled(False)


class WithNorm(torch.nn.Linear):
    def forward(self, x):
        output = super().forward(x)
        return output, output.norm(dim=-1)


model = torch.nn.ModuleDict({"proj": WithNorm(4, 2)})
tuned = get_peft_model(model, LoraConfig(r=1, target_modules=["proj"]))
try:
    got = f"{len(tuned.base_model.model['proj'](torch.ones(1, 4)))} tensors"
except AttributeError as error:
    got = f"AttributeError: {error}"
present = got != "2 tensors"
print(f"expected: 2 tensors\ngot:      {got}\n{'PRESENT' if present else 'absent'} in PEFT {peft.__version__}")
sys.exit(int(present))
