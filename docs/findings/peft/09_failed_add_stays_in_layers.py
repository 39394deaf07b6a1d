"""An `add_adapter` that fails half-way takes the adapter off its list, but not out of the layers it had reached.

Once another adapter is deleted the layers make it active, and the model can no longer be asked for its base weights.
Clause LIFE-3. Releases: 0.21.2.
"""

import sys
import warnings

import peft
import torch
from peft import LoraConfig, get_peft_model

warnings.simplefilter("ignore")
model = torch.nn.ModuleDict({"one": torch.nn.Linear(4, 2), "norm": torch.nn.LayerNorm(2)})
tuned = get_peft_model(model, LoraConfig(r=1, target_modules=["one"]), adapter_name="first")
try:
    tuned.add_adapter("wrong", LoraConfig(r=1, target_modules=["one", "norm"]))
except ValueError as error:
    print(f"refused: {str(error).split('. ')[0]}")
left = list(model["one"].lora_A)
tuned.delete_adapter("first")
try:
    tuned.base_model.disable_adapter_layers()
    got = "no error"
except KeyError as error:
    got = f"KeyError: {error}"
present = "wrong" in left
print(f"expected: adapters ['first'] in the layer, and no error\ngot:      adapters {left}, and {got}")
print(f"{'PRESENT' if present else 'absent'} in PEFT {peft.__version__}")
sys.exit(int(present))
