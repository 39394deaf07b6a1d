"""A class that changes nothing."""

from lora_compat import QKVParallelLinear


class PlainLinear(QKVParallelLinear):
    pass
