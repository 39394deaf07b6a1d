"""What a subclass does to its forward."""

from __future__ import annotations

from strategies.codec import Named


class Forward(Named):
    """What a subclass does to its forward."""

    INHERITED = "inherited"
    PASS_THROUGH = "pass_through"
    SCALED = "scaled"
    NON_LINEAR = "non_linear"
    CAST = "cast"
    SPLIT = "split"
    EXTRA_OUTPUT = "extra_output"
    BARE_TENSOR = "bare_tensor"
    TUPLE = "tuple"
    EXTRA_ARGUMENT = "extra_argument"
    OWN_KERNEL = "own_kernel"  # torch.matmul on its weight for few tokens, super() otherwise
    FUNCTIONAL_LINEAR = "functional_linear"  # torch.nn.functional.linear around the quant method
    OWN = "own"  # whatever an existing class does; never drawn

    @property
    def multiplies_itself(self) -> bool:
        """Whether the forward reads ``self.weight`` instead of calling the quant method."""
        return self in (Forward.OWN_KERNEL, Forward.FUNCTIONAL_LINEAR)
