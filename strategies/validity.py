"""What makes a case one that can be built and run: the conditions that drawing keeps by itself, written down.

Whoever changes a drawn case (simplifications, the search for what matters) asks here before the case is run.
"""

from __future__ import annotations

from dataclasses import replace

from lora_compat.families import Family
from strategies.cases import AdapterSpec, Case, Content, LayerSpec, Quantization
from strategies.classes import possible_forwards, possible_loaders
from strategies.subclasses import SubclassSpec

_GATHERING = (Family.COLUMN, Family.MERGED_COLUMN)


def is_valid(case: Case) -> bool:
    """Whether the layer can be built on its ranks, the class on the layer, and the adapters loaded into it.

    Of an existing class only its constructor knows what sizes it takes; nothing is asked of them here.
    """
    drawn = case.subclass.target is None
    if drawn and not (_of_sizes(case.layer, case.layer_tp_size) and _of_options(case.layer) and _of_class(case)):
        return False
    return _of_adapters(case)


def _of_sizes(layer: LayerSpec, parts: int) -> bool:
    """Whether ``parts`` ranks can share the layer."""
    sizes = layer.output_sizes
    if min((*sizes, layer.input_size), default=0) < 1 or (layer.heads is None) is (layer.family is Family.QKV):
        return False
    if layer.heads is not None:
        query, shared = layer.heads.query, layer.heads.key_value
        return sizes == layer.heads.output_sizes and query % parts == 0 and 0 in (shared % parts, parts % shared)
    if layer.family is not Family.MERGED_COLUMN and len(sizes) != 1:
        return False
    if layer.family is Family.ROW:
        return layer.input_size % parts == 0
    return not layer.family.shards_output or all(size % parts == 0 for size in sizes)


def _of_options(layer: LayerSpec) -> bool:
    """Whether the family has the layer's options."""
    if layer.family is Family.ROW:  # a bias cannot be added to partial sums: the constructor refuses it
        return not layer.gather_output and (layer.reduce_results or layer.skip_bias_add or not layer.bias)
    return layer.input_is_parallel and layer.reduce_results and (layer.family in _GATHERING or not layer.gather_output)


def _of_class(case: Case) -> bool:
    layer, subclass = case.layer, case.subclass
    if subclass.depth == 0:
        return replace(subclass, depth=0) == SubclassSpec()
    if subclass.forward.multiplies_itself and case.quantization is not Quantization.NONE:
        return False
    return subclass.forward in possible_forwards(layer) and subclass.loader in possible_loaders(layer)


def _of_adapters(case: Case) -> bool:
    slots = [adapter.slot for adapter in case.adapters]
    return (
        len(set(slots)) == len(slots)
        and all(0 <= slot < case.max_loras for slot in slots)
        and all(-1 <= token < len(slots) for token in case.tokens)
        and sum(case.packed) in (0, len(case.layer.output_sizes))
        and all(1 <= adapter.rank <= case.max_rank and _has_parts(adapter, case) for adapter in case.adapters)
        and all(_equals(adapter, case.adapters[0]) for adapter in case.adapters if adapter.content is Content.EQUAL)
    )


def _equals(adapter: AdapterSpec, first: AdapterSpec) -> bool:
    return adapter is not first and replace(adapter, slot=first.slot, content=first.content) == first


def _has_parts(adapter: AdapterSpec, case: Case) -> bool:
    """Whether the adapter comes in the parts that the packed list asks for: one for each name, or a fused one."""
    outputs, packed = len(case.layer.output_sizes), case.packed
    if adapter.fused:
        return not adapter.ranks and adapter.present == (True,) and outputs > 1 and len(packed) != 1
    if not packed and outputs > 1:
        return False
    if adapter.ranks and (len(adapter.ranks) != len(packed) or max(adapter.ranks) != adapter.rank):
        return False
    # A name that covers several outputs cannot be placed by its neighbours' gap.
    return len(adapter.present) == max(1, len(packed)) and (len(packed) == outputs or all(adapter.present))
