"""What kernels and model code read of a layer is not there any more once it is wrapped: its quant method, sizes,
scales.

Clauses WRAP-4, WRAP-8. Release: 0.5.23.
"""

import torch
from served import Served, filled, report
from sglang.srt.layers import linear

layer = filled(linear.ColumnParallelLinear(2, 1, bias=False))
layer.weight_scale = torch.nn.Parameter(torch.ones(1))  # as quant methods keep it
served = Served("layers.0.fc1", layer, (2, 1))
names = ("weight", "weight_scale", "bias", "quant_method", "input_size", "output_size", "output_partition_sizes")
report([name for name in names if hasattr(layer, name)], [name for name in names if hasattr(served.lora, name)])
