"""Code that multiplies with the wrapped layer's weight itself, as fused paths do, gets the base weight without a word.

Clause WRAP-7. Releases: 0.21.2.
"""

import sys

import peft
import torch
from peft import LoraConfig, get_peft_model

torch.set_grad_enabled(False)
model = torch.nn.ModuleDict({"proj": torch.nn.Linear(4, 2, bias=False)})
model["proj"].weight.fill_(0.0)
tuned = get_peft_model(model, LoraConfig(r=1, lora_alpha=1, target_modules=["proj"]))
layer = tuned.base_model.model["proj"]
layer.lora_A["default"].weight.fill_(1.0)
layer.lora_B["default"].weight.fill_(1.0)
x = torch.ones(1, 4)
expected = layer(x).tolist()
got = torch.nn.functional.linear(x, layer.weight).tolist()
present = got != expected
print(f"expected: {expected}\ngot:      {got}\n{'PRESENT' if present else 'absent'} in PEFT {peft.__version__}")
sys.exit(int(present))
