"""Bugs of input layouts, of empty batches, and of forwards of a class's own (MATH-7, MATH-1)."""

from __future__ import annotations

import torch

from lora_compat.delta import LoRADelta
from lora_compat.errors import TokenCountError
from lora_compat.wrapper import LoRALinear
from tests.mutants.planting import plant
from tests.mutants.wrapping import each_tensor


@plant(LoRADelta, "add_to", origin="3-D inputs", clauses="MATH-7", anomalies="raised")
def two_dimensions_only(original):
    """An input of more than two dimensions trips an assertion."""

    def add_to(self, output, x):
        assert x.dim() == 2, "expected [tokens, hidden]"
        return original(self, output, x)

    return add_to


@plant(LoRADelta, "add_to", origin="3-D inputs", clauses="MATH-7", anomalies="layout-refused")
def three_dimensions_refused(original):
    """The first dimension is taken for the tokens, so a 3-D input is refused."""

    def add_to(self, output, x):
        if x.shape[0] != len(self.batch):
            raise TokenCountError(self.layer, x.shape[0], len(self.batch))
        return original(self, output, x)

    return add_to


@plant(LoRADelta, "add_to", origin="3-D inputs", clauses="MATH-7", anomalies="delta-incomplete delta-dropped")
def only_the_first_sequence(original):
    """Of a 3-D input only the first sequence gets adapters."""

    def add_to(self, output, x):
        kept = output.clone()
        output = original(self, output, x)
        if x.dim() == 3:
            output[1:] = kept[1:]
        return output

    return add_to


@plant(LoRADelta, "add_to", origin="strides", clauses="MATH-7", anomalies="layout-dependent layout-refused")
def strides_overlooked(original):
    """The input's memory is read as if it were contiguous."""

    def add_to(self, output, x):
        if not x.is_contiguous() and x.dim() == 2:
            x = x.as_strided(x.shape, (x.shape[1], 1))
        return original(self, output, x)

    return add_to


@plant(LoRADelta, "add_to", origin="strides", clauses="MATH-7", anomalies="raised")
def a_view_for_a_reshape(original):
    """A non-contiguous input cannot be viewed as rows."""
    return lambda self, output, x: original(self, output, x.view(-1).view(x.shape))


@plant(LoRALinear, "forward", origin="profiling runs", clauses="MATH-7", anomalies="raised")
def empty_batches_raise(original):
    """A batch of no tokens is indexed at its first."""

    def forward(self, x, *args, **kwargs):
        x[0]
        return original(self, x, *args, **kwargs)

    return forward


@plant(LoRALinear, "forward", origin="profiling runs", clauses="MATH-7", anomalies="base-forward-bypassed")
def empty_batches_skip_the_layer(original):
    """A batch of no tokens is handed back as it came."""

    def forward(self, x, *args, **kwargs):
        return original(self, x, *args, **kwargs) if x.numel() else (x[..., :0], None)

    return forward


@plant(LoRADelta, "add_to", origin="K5", clauses="MATH-7", anomalies="input-written")
def scratch_space_in_the_input(original):
    """The shrink's scratch space is the caller's input."""

    def add_to(self, output, x):
        output = original(self, output, x)
        x.zero_()
        return output

    return add_to


@plant(LoRADelta, "add_to", origin="K5", clauses="MATH-7", anomalies="input-written")
def rows_without_an_adapter_zeroed_in_the_input(original):
    """Tokens without an adapter are masked in the caller's own input."""

    def add_to(self, output, x):
        output = original(self, output, x)
        x.view(-1, x.shape[-1])[self.batch.token_slots < 0] = 0 if x.is_contiguous() else x[:1, :1]
        return output

    return add_to


@plant(LoRALinear, "forward", origin="S0e, vllm #35077", clauses="MATH-1", anomalies="base-forward-bypassed")
def the_family_forward_for_the_class_forward(original):
    """The family's forward is run in place of the class's own."""

    def forward(self, x, *args, **kwargs):
        base = self.base_layer
        own = next(cls for cls in type(base).__mro__ if cls.__module__.startswith("lora_compat.layers."))
        return own.forward(base, x)

    return forward


@plant(LoRALinear, "forward", origin="added after the forward", clauses="MATH-1", anomalies="delta-outside-forward")
def added_to_what_the_class_returns(original):
    """The contribution is added to what the class's forward made of its product, not to the product."""

    def forward(self, x, *args, **kwargs):
        batch = self.delta.batch
        if not batch.active or "drawn" not in type(self.base_layer).forward.__module__:
            return original(self, x, *args, **kwargs)
        with_adapters = each_tensor(self.base_layer.quant_method.apply(self.base_layer, x), torch.Tensor.clone)
        self.set_batch(None)
        without = self.base_layer.quant_method.apply(self.base_layer, x)
        result = original(self, x, *args, **kwargs)
        self.set_batch(batch)
        contribution = with_adapters - without

        def add(output):
            return output + contribution.to(output.dtype) if output.shape == contribution.shape else output

        return each_tensor(result, add)

    return forward


@plant(LoRADelta, "add_to", origin="only several tokens", clauses="MATH-1 MATH-7", anomalies="delta-dropped")
def a_single_token_takes_the_fast_path(original):
    """One token alone takes a path without adapters."""

    def add_to(self, output, x):
        if len(self.batch) == 1:
            self.served += 1
            return output
        return original(self, output, x)

    return add_to
