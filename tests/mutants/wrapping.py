"""Bugs of dispatch and of the wrapper's transparency (WRAP)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch import Tensor, nn

import lora_compat
from lora_compat import weights, wrapper
from lora_compat.errors import UnsupportedLayerError
from lora_compat.families import Family, FamilyRegistry
from lora_compat.interception import InterceptedApply
from lora_compat.kernels import TokenBatch
from lora_compat.wrapper import LoRALinear
from tests.mutants.planting import plant, plant_together


def each_tensor(result, change):
    """A result with every tensor in it changed."""
    if isinstance(result, tuple):
        return tuple(each_tensor(item, change) for item in result)
    return change(result) if isinstance(result, Tensor) and not isinstance(result, nn.Parameter) else result


@plant(FamilyRegistry, "lookup", origin="S0a, vllm #35077", clauses="WRAP-1", anomalies="not-wrapped")
def exact_type_dispatch(original):
    """Only the registered classes themselves are recognised, none that derives from them."""
    return lambda self, cls: original(self, cls) if cls in self._entries else None


@plant(FamilyRegistry, "lookup", origin="D1, vllm #42306", clauses="WRAP-1", anomalies="not-wrapped")
def only_direct_children(original):
    """A grandchild of a registered class is not recognised."""

    def lookup(self, cls):
        found = original(self, cls)
        return found if found and found[0] in (cls, *cls.__bases__) else None

    return lookup


@plant(FamilyRegistry, "lookup", origin="mixins", clauses="WRAP-1", anomalies="not-wrapped")
def only_first_bases(original):
    """Just the first base of every class is followed, so a mixin in front hides the layer."""

    def lookup(self, cls):
        while cls not in self._entries and cls is not object:
            cls = cls.__bases__[0]
        return original(self, cls)

    return lookup


@plant(lora_compat, "wrap_layer", origin="D9", clauses="WRAP-1", anomalies="not-wrapped")
def replicated_fully_sharded_left_alone(original):
    """A replicated layer is left as it is where adapters are fully sharded."""

    def wrap_layer(layer, config, **name):
        wrapped = original(layer, config, **name)
        return None if wrapped.family is Family.REPLICATED and config.fully_sharded_loras else wrapped

    return wrap_layer


@plant(lora_compat, "wrap_layer", origin="S0e, vllm #35077", clauses="WRAP-2", anomalies="not-wrapped")
def own_forwards_left_alone(original):
    """A subclass with a forward of its own is left as it is, without a word."""

    def wrap_layer(layer, config, **name):
        return None if "drawn" in type(layer).forward.__module__ else original(layer, config, **name)

    return wrap_layer


@plant(lora_compat, "wrap_layer", origin="forwards that take more", clauses="WRAP-2", anomalies="raised")
def forwards_with_arguments_trip_an_assertion(original):
    """A forward that takes more than an input is an AssertionError."""

    def wrap_layer(layer, config, **name):
        code = getattr(type(layer).forward, "__code__", None)
        assert code is None or code.co_argcount == 2, "unexpected forward"
        return original(layer, config, **name)

    return wrap_layer


@plant(FamilyRegistry, "lookup", origin="vllm #36372", clauses="WRAP-3", anomalies="order-dependent")
def first_registered_wins(original):
    """The first registered class that a layer is an instance of decides, so the order of registration matters."""

    def lookup(self, cls):
        self._register_what_is_imported()
        return next(((base, *entry) for base, entry in self._entries.items() if issubclass(cls, base)), None)

    return lookup


@plant(
    FamilyRegistry,
    "lookup",
    origin="first-registered-wins, mended badly",
    clauses="WRAP-3",
    anomalies="order-dependent",
)
def last_registered_wins(original):
    """The last registered class that a layer is an instance of decides."""

    def lookup(self, cls):
        self._register_what_is_imported()
        return next(((base, *self._entries[base]) for base in reversed(self._entries) if issubclass(cls, base)), None)

    return lookup


@plant(LoRALinear, "forward", origin="D4, vllm #35077", clauses="WRAP-4", anomalies="base-changed")
def output_cast_to_the_weights_dtype(original):
    """Wrapping alone casts what the class returns to the dtype of its weight."""

    def forward(self, *args, **kwargs):
        result = original(self, *args, **kwargs)
        return each_tensor(result, lambda output: output.to(self.base_layer.params_dtype))

    return forward


@plant(LoRALinear, "forward", origin="own forward with arguments", clauses="WRAP-4", anomalies="raised")
def extra_arguments_lost(original):
    """Just the input is passed on to the class's forward."""
    return lambda self, x, *args, **kwargs: original(self, x)


@plant(LoRALinear, "forward", origin="return_bias=False", clauses="WRAP-4", anomalies="base-changed")
def always_a_pair(original):
    """Whatever the class returns, the wrapper returns output and bias."""

    def forward(self, *args, **kwargs):
        result = original(self, *args, **kwargs)
        return result if isinstance(result, tuple) else (result, None)

    return forward


@plant(
    LoRALinear,
    "forward",
    origin="rounding on the way out",
    clauses="WRAP-4 MATH-3",
    anomalies="base-changed adapter-leak",
)
def last_token_through_bfloat16(original):
    """The last token's output takes a detour through bfloat16, with or without adapters."""

    def detour(output):
        if output.dim() and len(output) and output.is_floating_point():
            output = output.clone()
            output[-1] = output[-1].to(torch.bfloat16).to(output.dtype)
        return output

    return lambda self, *args, **kwargs: each_tensor(original(self, *args, **kwargs), detour)


@plant(LoRALinear, "__init__", origin="D10, vllm #42757", clauses="WRAP-4", anomalies="base-changed")
def weight_copied_while_wrapping(original):
    """The base weight moves to a new storage, so whoever shares it sees another one."""

    def __init__(self, base_layer, config, *, name=""):
        original(self, base_layer, config, name=name)
        base_layer.weight.data = base_layer.weight.data.clone()

    return __init__


@plant(LoRALinear, "__getattr__", origin="D16, vllm #53361", clauses="WRAP-4", anomalies="hidden-attribute")
def weight_scale_hidden(original):
    """The scale that a quantized kernel reads is not reachable through the wrapper."""

    def __getattr__(self, name):
        if name == "weight_scale":
            raise AttributeError(name)
        return original(self, name)

    return __getattr__


@plant(LoRALinear, "__getattr__", origin="D16, vllm #53361", clauses="WRAP-4", anomalies="hidden-attribute")
def sizes_from_the_plan(original):
    """The wrapper answers for the partition sizes itself, and gives a tuple's first entry for all."""

    def __getattr__(self, name):
        found = original(self, name)
        return [found[0]] * len(found) if name == "output_partition_sizes" else found

    return __getattr__


@plant(lora_compat, "wrap_layer", origin="D10, vllm #42757", clauses="WRAP-5", anomalies="wrapped-twice delta-doubled")
def a_second_wrap_adds_again(original):
    """Wrapping what is wrapped puts a second interception around the first."""

    def wrap_layer(layer, config, **name):
        wrapped = original(layer, config, **name)
        if wrapped is layer:
            once = wrapped.base_layer.quant_method.apply

            def twice(base, x, *args):
                output = once(base, x, *args)
                return wrapped.delta.add_to(output, x) if wrapped.delta.batch.active else output

            wrapped.base_layer.quant_method.apply = InterceptedApply(twice)
        return wrapped

    return wrap_layer


@plant_together(origin="D10", clauses="WRAP-5 MATH-1", anomalies="wrapped-twice delta-doubled")
@contextmanager
def interceptions_pile_up() -> Iterator[None]:
    """Every forward intercepts once more, and every interception adds."""

    def stack(layer):
        layer.quant_method.apply = InterceptedApply(layer.quant_method.apply)
        return True

    def add(self, layer, x, *args, **kwargs):
        delta = layer.__dict__["_lora_delta"]
        with torch._C.DisableTorchFunctionSubclass():
            output = self.apply(layer, x, *args, **kwargs)
        return delta.add_to(output, x) if delta.batch.active else output

    with patch.object(wrapper, "intercept", stack), patch.object(InterceptedApply, "__call__", add):
        yield


# It serves what is no layer, which the clause calls `not-refused`; what it cannot build ends in an error that says
# nothing of a module, a class or targets.
@plant(FamilyRegistry, "require", origin="D13, vllm #52313", clauses="WRAP-6", anomalies="not-refused unclear-refusal")
def whatever_has_a_weight_is_a_layer(original):
    """Anything with a weight is taken for a replicated linear layer."""

    def require(self, layer):
        if self.lookup(type(layer)) is None and hasattr(layer, "weight"):
            return type(layer), Family.REPLICATED, lambda layer: lora_compat.SingleGroup()
        return original(self, layer)

    return require


# An assertion in place of a refusal is a refusal that says nothing: `raised` is for what should be served.
@plant(FamilyRegistry, "require", origin="vllm #52313", clauses="WRAP-6", anomalies="unclear-refusal")
def an_assertion_for_a_refusal(original):
    """A layer without a family trips an assertion."""

    def require(self, layer):
        assert self.lookup(type(layer)) is not None
        return original(self, layer)

    return require


@plant(UnsupportedLayerError, "__init__", origin="error messages", clauses="WRAP-6", anomalies="unclear-refusal")
def refusal_without_the_class(original):
    """The refusal does not say which class it refuses."""
    return lambda self, layer, reason, *, name="": Exception.__init__(self, "unsupported layer")


@plant(lora_compat, "wrap_layer", origin="half-done refusals", clauses="WRAP-6", anomalies="base-changed")
def marked_before_checked(original):
    """A layer is given its LoRA buffer before it is known to be supported."""

    def wrap_layer(layer, config, **name):
        if isinstance(layer, LoRALinear):
            return original(layer, config, **name)
        layer.register_buffer("lora_mapping", torch.zeros(1))
        return original(layer, config, **name)

    return wrap_layer


@plant(wrapper, "know_lora", origin="P1, sglang #22268", clauses="WRAP-7", anomalies="weight-stolen")
def weight_that_knows_nothing(original):
    """A fast path that reads the weight gets the base weight."""
    return lambda weight, delta: None


@plant(weights, "_with_contribution", origin="P1, PEFT #2556", clauses="WRAP-7", anomalies="weight-stolen")
def only_linear_is_noticed(original):
    """torch.matmul on the weight goes unnoticed."""

    def with_contribution(weight, func, result, args, kwargs):
        if func in weights._MATMUL:
            weight._lora_delta.served += 1
            return result
        return original(weight, func, result, args, kwargs)

    return with_contribution


@plant(
    weights, "_derive", origin="P1, TensorRT-LLM #6698", clauses="WRAP-7", anomalies="weight-stolen delta-incomplete"
)
def a_slice_of_the_weight_forgets(original):
    """Rows sliced off the weight are plain base rows."""

    def derive(source, func, result, args, kwargs):
        return result if func in weights._ROWS else original(source, func, result, args, kwargs)

    return derive


@plant(wrapper, "know_lora", origin="P1, TensorRT-LLM #6698", clauses="WRAP-8", anomalies="weight-stolen")
def stored_integers_that_know_nothing(original):
    """A fast path that dequantizes the stored weight gets the base weight."""

    def know_lora(weight, delta):
        return original(weight, delta) if weight.dtype in weights._FULL_PRECISION else False

    return know_lora


@plant(weights, "_derive", origin="PEFT #2556", clauses="WRAP-8", anomalies="weight-stolen")
def a_cast_of_the_stored_weight_forgets(original):
    """The stored weight, once it is cast to a dtype it can be multiplied in, is a plain one."""

    def derive(source, func, result, args, kwargs):
        if source._lora_quantized and func in weights._SAME:
            return result
        return original(source, func, result, args, kwargs)

    return derive


@plant(lora_compat.delta.LoRADelta, "of_rows", origin="P1", clauses="WRAP-7", anomalies="delta-misplaced")
def a_slice_counts_from_the_top(original):
    """Rows sliced off the weight get the contribution of the first rows."""
    return lambda self, x, rows: original(self, x, torch.arange(len(rows)))


@plant(TokenBatch, "active", origin="warm-ups of one token", clauses="MATH-1", anomalies="delta-dropped")
def a_single_token_is_a_warm_up(original):
    """A batch of one token is taken for a warm-up and served without adapters."""
    return lambda self: original(self) and len(self) > 1
