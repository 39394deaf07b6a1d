"""A target that cannot carry LoRA is refused by an error that shows the module, but not the name of it or the target.

Clause WRAP-6. Releases: 0.21.2.
"""

import sys

import peft
import torch
from peft import LoraConfig, get_peft_model

model = torch.nn.ModuleDict({"proj": torch.nn.Linear(4, 2), "final_norm": torch.nn.LayerNorm(2)})
try:
    get_peft_model(model, LoraConfig(r=1, target_modules=["proj", "final_norm"]))
    got = "no error"
except ValueError as error:
    got = str(error)
present = "final_norm" not in got
print(f"expected: an error that names final_norm\ngot:      {got}")
print(f"{'PRESENT' if present else 'absent'} in PEFT {peft.__version__}")
sys.exit(int(present))
