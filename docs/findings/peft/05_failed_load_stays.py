"""An adapter whose tensors do not fit is refused by `load_adapter`, and stays: it is listed, and serves what did fit.

Clause LIFE-3. Releases: 0.21.2.
"""

import sys
import tempfile
from pathlib import Path

import peft
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file

torch.set_grad_enabled(False)
model = torch.nn.ModuleDict({"one": torch.nn.Linear(4, 2), "two": torch.nn.Linear(4, 2)}).eval()
config = LoraConfig(r=1, target_modules=["one", "two"])
tuned = get_peft_model(model, config, adapter_name="first")
x = torch.ones(1, 4)
before = model["one"](x, adapter_names=["wrong"]).tolist()
with tempfile.TemporaryDirectory() as folder:
    config.save_pretrained(folder)
    tensors = {f"base_model.model.{name}.lora_A.weight": torch.ones(1, 4) for name in ("one", "two")}
    tensors["base_model.model.one.lora_B.weight"] = torch.ones(2, 1)
    tensors["base_model.model.two.lora_B.weight"] = torch.ones(3, 1)  # a row too many
    save_file(tensors, Path(folder) / "adapter_model.safetensors")
    try:
        tuned.load_adapter(folder, adapter_name="wrong")
    except RuntimeError as error:
        print(f"refused: {str(error).splitlines()[-1].strip()}")
after = model["one"](x, adapter_names=["wrong"]).tolist()
present = "wrong" in tuned.peft_config
print(f"expected: adapters ['first'], and {before} of the other module for the one that was refused")
print(f"got:      adapters {list(tuned.peft_config)}, and {after}")
print(f"{'PRESENT' if present else 'absent'} in PEFT {peft.__version__}")
sys.exit(int(present))
