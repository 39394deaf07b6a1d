"""A weighted sum of rank-stabilised adapters is multiplied by the root of its rank: the scaling of the parts is in it
already, and the new adapter, which is rank-stabilised as the first part is, has another one, √r in place of 1.

Clause MATH-18. Releases: 0.21.2.
"""

import sys

import peft
import torch
from peft import LoraConfig, get_peft_model

torch.set_grad_enabled(False)
model = torch.nn.ModuleDict({"proj": torch.nn.Linear(4, 2, bias=False)})
config = {"r": 2, "lora_alpha": 2, "use_rslora": True, "target_modules": ["proj"]}
tuned = get_peft_model(model, LoraConfig(**config), adapter_name="one")
tuned.add_adapter("other", LoraConfig(**config))
layer = model["proj"]
for name in ("one", "other"):
    layer.lora_A[name].weight.fill_(1.0)
    layer.lora_B[name].weight.fill_(1.0)
expected = sum(layer.get_delta_weight(name) for name in ("one", "other"))
tuned.add_weighted_adapter(["one", "other"], [1.0, 1.0], "sum", combination_type="cat")
got = layer.get_delta_weight("sum")
present = not torch.allclose(got, expected)
print(f"expected: {expected[0].tolist()} in each row of the weight\ngot:      {got[0].tolist()}")
print(f"{'PRESENT' if present else 'absent'} in PEFT {peft.__version__}")
sys.exit(int(present))
