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
    EINSUM = "einsum"  # torch.einsum on its weight
    ADDMM = "addmm"  # torch.addmm of its bias, the tokens in two dimensions, and its weight
    COLUMN_CHUNKS = "column_chunks"  # the first half of its weight's rows, then the others
    CACHED_COPY = "cached_copy"  # on a copy of its weight that it keeps
    CHILD = "child"  # through a child module that shares its weight
    TOKEN_CHUNKS = "token_chunks"  # the first half of its tokens, then the others
    TWICE = "twice"  # the mean of two products
    PERMUTED = "permuted"  # its tokens in reverse, put back after
    MASKED = "masked"  # tokens whose first input is below -1 are dropped, and are zeros after
    SCALED_INPUT = "scaled_input"  # twice the input
    NORMALIZED = "normalized"  # the input divided by a power of two, each token by its own
    LARGEST_OF_TWO = "largest_of_two"  # of each token and the one before it, element by element
    LARGEST_SO_FAR = "largest_so_far"  # of each token and all that come after it, the last token first
    OWN = "own"  # whatever an existing class does; never drawn

    @property
    def multiplies_itself(self) -> bool:
        """Whether the forward reads ``self.weight`` instead of calling the quant method."""
        return self in _MULTIPLYING

    @property
    def mixes_tokens(self) -> bool:
        """Whether a row of what is multiplied is made of several tokens.

        Right is the adapter of the token whose output it becomes; who cannot tell that may refuse batches of several.
        """
        return self in (Forward.LARGEST_OF_TWO, Forward.LARGEST_SO_FAR)

    @property
    def needs_whole_tokens(self) -> bool:
        """Whether the forward must see all of a token: what it does depends on its values."""
        return self in (Forward.MASKED, Forward.NORMALIZED)


_MULTIPLYING = (
    Forward.OWN_KERNEL,
    Forward.FUNCTIONAL_LINEAR,
    Forward.EINSUM,
    Forward.ADDMM,
    Forward.COLUMN_CHUNKS,
    Forward.CACHED_COPY,
    Forward.CHILD,
)
