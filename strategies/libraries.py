"""The libraries that base layers come from, as far as rendering must know them: what is imported from where.

vLLM and `lora_compat` agree on names, constructor parameters and attributes. torch has one linear layer, of one rank,
which names its sizes otherwise, takes no quant config, and returns a tensor; `Implementation.fitted` makes cases of
that kind, and a rendered class asks for nothing else.
"""

from __future__ import annotations

import enum

from lora_compat.families import Family

BASE_CLASSES = {
    Family.REPLICATED: "ReplicatedLinear",
    Family.COLUMN: "ColumnParallelLinear",
    Family.MERGED_COLUMN: "MergedColumnParallelLinear",
    Family.QKV: "QKVParallelLinear",
    Family.ROW: "RowParallelLinear",
}


class Library(enum.Enum):
    """Where the base layers are imported from."""

    LORA_COMPAT = "lora_compat"
    VLLM = "vllm"
    TORCH = "torch"

    @property
    def layers_module(self) -> str:
        return {
            "lora_compat": "lora_compat.layers",
            "vllm": "vllm.model_executor.layers.linear",
            "torch": "torch.nn",
        }[self.value]

    def base_class(self, family: Family) -> str:
        """The name of a family's base class."""
        return "Linear" if self is Library.TORCH else BASE_CLASSES[family]

    @property
    def size_import(self) -> str:
        """The import line that makes ``tensor_parallel_size()`` available."""
        return {
            "lora_compat": "from lora_compat.parallel import tensor_parallel_size",
            "vllm": "from vllm.distributed import get_tensor_model_parallel_world_size as tensor_parallel_size",
        }[self.value]

    @property
    def takes_quant_config(self) -> bool:
        """Whether constructors have a parameter of that name."""
        return self is not Library.TORCH
