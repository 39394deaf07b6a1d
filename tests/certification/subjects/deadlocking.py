"""Classes that deadlock: one rank skips a collective that the others wait in, or none ever comes back."""

import time

from lora_compat import ColumnParallelLinear, RowParallelLinear


class SkippingLinear(ColumnParallelLinear):
    def forward(self, input_):
        output, bias = super().forward(input_)
        if self.tp_rank == 0:
            output = self.tp_group.all_reduce(output)
        return output, bias


class HangingLinear(RowParallelLinear):
    def forward(self, input_):
        while self.tp_size > 1:
            time.sleep(0.05)
        return super().forward(input_)
