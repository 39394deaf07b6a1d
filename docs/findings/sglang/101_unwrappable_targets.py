"""A target that is no linear layer ends the start in an error that names neither the module nor the target.

Clause WRAP-6. Release: 0.5.23.
"""

import torch
from served import Managed, Model, attempt, report

model = Model("layers.0.norm", torch.nn.LayerNorm(2), (2, 2))
model.get_hidden_dim = lambda module_name, layer_idx: (2, 2)
said = attempt(lambda: Managed(model, {"norm"}) and "nothing")
report("an error that names layers.0.norm", "an error that names layers.0.norm" if "layers.0.norm" in said else said)
