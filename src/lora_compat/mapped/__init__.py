"""LoRA on a model by its checkpoint map: nothing is declared, and every parameter that is moved can have adapters."""

from lora_compat.mapped.layout import MappedLayout, NotServedError
from lora_compat.mapped.packing import PackedModulesError, require_agreeing
from lora_compat.mapped.stacks import StackedWeights
from lora_compat.mapped.wrapping import MapMismatchError, MappedModel, wrap_mapped

__all__ = [
    "MapMismatchError",
    "MappedLayout",
    "MappedModel",
    "NotServedError",
    "PackedModulesError",
    "StackedWeights",
    "require_agreeing",
    "wrap_mapped",
]
