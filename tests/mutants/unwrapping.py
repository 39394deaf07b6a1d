"""Bugs of the way through wrappers to the quant method and the dense weight (UNWRAP)."""

from __future__ import annotations

import copy
import sys
from itertools import islice

import lora_compat
from lora_compat.errors import QuantMethodNotFoundError
from tests.mutants.planting import plant

unwrap = sys.modules["lora_compat.unwrap"]  # the package's attribute of that name is the function


@plant(
    lora_compat, "quant_method_of", origin="S0b, vllm #35077", clauses="UNWRAP-3", anomalies="raised hidden-attribute"
)
def one_level_only(original):
    """The quant method is looked for in the module and in what it wraps, no deeper."""

    def quant_method_of(module):
        if "quant_method" in module.__dict__:
            return module.quant_method
        return module.base_layer.__dict__["quant_method"]

    return quant_method_of


@plant(
    lora_compat,
    "quant_method_of",
    origin="the outermost answer wins",
    clauses="UNWRAP-3",
    anomalies="hidden-attribute",
)
def none_ends_the_search(original):
    """A wrapper whose quant method is None has the last word."""

    def quant_method_of(module):
        for layer in unwrap.chain_of(module):
            if "quant_method" in layer.__dict__:
                return layer.quant_method
        return original(module)

    return quant_method_of


@plant(lora_compat, "quant_method_of", origin="getattr through a bare wrapper", clauses="UNWRAP-3", anomalies="raised")
def silence_ends_the_search(original):
    """A wrapper that says nothing of quant methods raises AttributeError."""
    return lambda module: module.quant_method or original(module)


@plant(lora_compat, "quant_method_of", origin="defensive copies", clauses="UNWRAP-1", anomalies="hidden-attribute")
def a_copy_of_the_quant_method(original):
    """A copy is handed out, so what is set on it is lost."""
    return lambda module: copy.copy(original(module))


@plant(unwrap, "chain_of", origin="a bound on the depth", clauses="UNWRAP-1 UNWRAP-3", anomalies="hidden-attribute")
def four_modules_deep(original):
    """The search gives up after four modules."""
    return lambda module: islice(original(module), 4)


@plant(
    lora_compat,
    "dense_weight",
    origin="MLA post-processing of a quantized layer",
    clauses="UNWRAP-2",
    anomalies="hidden-attribute",
)
def the_stored_weight(original):
    """The weight is given as it is stored, quantized or not."""
    return lambda module: unwrap.unwrap(module).weight.detach()


@plant(
    lora_compat, "dense_weight", origin="scale of the wrong shape", clauses="UNWRAP-2", anomalies="hidden-attribute"
)
def one_scale_for_all_rows(original):
    """The first row's scale dequantizes every row."""

    def dense_weight(module):
        layer = unwrap.unwrap(module)
        if not hasattr(layer, "weight_scale"):
            return original(module)
        return (layer.weight.detach().float() * layer.weight_scale[0]).to(layer.params_dtype)

    return dense_weight


@plant(lora_compat, "dense_weight", origin="S0b, vllm #35077", clauses="UNWRAP-2", anomalies="raised")
def the_outermost_weight(original):
    """The weight is read off the outermost wrapper."""
    return lambda module: module.weight.detach() if module.quant_method else original(module)


@plant(unwrap, "chain_of", origin="recursion", clauses="UNWRAP-4", anomalies="unclear-refusal")
def recursion_without_end(original):
    """A chain that loops is followed until the stack ends."""

    def chain_of(module):
        yield module
        inner = module._modules.get("base_layer")
        if inner is not None:
            yield from chain_of(inner)

    return chain_of


@plant(unwrap, "chain_of", origin="while True", clauses="UNWRAP-4", anomalies="endless-search")
def a_loop_without_end(original):
    """A chain that loops is followed forever."""

    def chain_of(module):
        while module is not None:
            yield module
            module = module._modules.get("base_layer")

    return chain_of


@plant(lora_compat, "quant_method_of", origin="Optional results", clauses="UNWRAP-4", anomalies="unclear-refusal")
def none_where_there_is_none(original):
    """A chain without a quant method gives None."""

    def quant_method_of(module):
        try:
            return original(module)
        except QuantMethodNotFoundError:
            return None

    return quant_method_of
