"""Classes that cannot be built: one asks for what nobody can know, one raises."""

from lora_compat import ColumnParallelLinear


class ConfiguredLinear(ColumnParallelLinear):
    def __init__(self, config: dict, layer_index: int, bias: bool = False):
        super().__init__(config["hidden"], config["inner"][layer_index], bias=bias)


class RaisingLinear(ColumnParallelLinear):
    def __init__(self, input_size, output_size):
        raise RuntimeError("no kernels for this platform")


def build(geometry):
    """The recipe of `ConfiguredLinear`."""
    config = {"hidden": geometry.input_size, "inner": [geometry.output_size]}
    return ConfiguredLinear(config, 0, bias=geometry.options["bias"])
