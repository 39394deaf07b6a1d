"""A subclass whose forward scales its product gets the adapter's part unscaled, added behind that forward.

Merged into the weight, the same adapter is scaled: `merge_adapter` changes what the model computes.
Clause MATH-1. Releases: 0.21.2.
"""

import sys

import peft
import torch
from peft import LoraConfig, get_peft_model

torch.set_grad_enabled(False)


class Doubled(torch.nn.Linear):
    def forward(self, x):
        return super().forward(x) * 2


model = torch.nn.ModuleDict({"proj": Doubled(4, 2, bias=False)})
model["proj"].weight.fill_(0.0)
tuned = get_peft_model(model, LoraConfig(r=1, lora_alpha=1, target_modules=["proj"]))
layer = tuned.base_model.model["proj"]
layer.lora_A["default"].weight.fill_(1.0)
layer.lora_B["default"].weight.fill_(1.0)
x = torch.ones(1, 4)
got = layer(x).tolist()
tuned.merge_adapter()
expected = layer(x).tolist()
present = got != expected
print(f"expected: {expected}, as merged\ngot:      {got}")
print(f"{'PRESENT' if present else 'absent'} in PEFT {peft.__version__}")
sys.exit(int(present))
