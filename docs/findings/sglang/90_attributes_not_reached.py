"""What kernels and model code read of a layer is not there any more once it is wrapped: its quant method, sizes,
scales.

Clause WRAP-4. Release: 0.5.23.
"""

from served import Served, filled, report
from sglang.srt.layers import linear

layer = filled(linear.ColumnParallelLinear(2, 1, bias=False))
served = Served("layers.0.fc1", layer, (2, 1))
names = ("weight", "bias", "quant_method", "input_size", "output_size", "output_partition_sizes")
report([name for name in names if hasattr(layer, name)], [name for name in names if hasattr(served.lora, name)])
