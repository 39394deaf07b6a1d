"""A module whose import fails."""

import a_kernel_library_that_is_not_installed  # noqa: F401

from lora_compat import ColumnParallelLinear


class UnimportableLinear(ColumnParallelLinear):
    pass
