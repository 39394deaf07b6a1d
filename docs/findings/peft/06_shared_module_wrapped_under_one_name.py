"""A module that is reachable under two names is wrapped under one of them: under the other it has no adapter.

Clause WRAP-5, TARGET-2. Releases: 0.21.2.
"""

import sys

import peft
import torch
from peft import LoraConfig, get_peft_model

torch.set_grad_enabled(False)
shared = torch.nn.Linear(4, 2, bias=False)
model = torch.nn.ModuleDict({"one": shared, "two": shared})
tuned = get_peft_model(model, LoraConfig(r=1, lora_alpha=1, target_modules=["one", "two"]))
x = torch.ones(1, 4)
for layer in (model["one"], model["two"]):
    if hasattr(layer, "lora_A"):
        layer.lora_A["default"].weight.fill_(1.0)
        layer.lora_B["default"].weight.fill_(1.0)
expected, got = model["one"](x).tolist(), model["two"](x).tolist()
present = got != expected
print(f"expected: {expected} under both names\ngot:      {got} under the other")
print(f"{'PRESENT' if present else 'absent'} in PEFT {peft.__version__}")
sys.exit(int(present))
