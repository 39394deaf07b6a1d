"""Bugs of the token → slot map: whose adapter a token gets (MATH-2, MATH-3, MATH-13)."""

from __future__ import annotations

import torch

from lora_compat import delta, token_identity
from lora_compat.delta import LoRADelta
from lora_compat.kernels import TokenBatch
from lora_compat.wrapper import LoRALinear
from tests.mutants.planting import plant


def served_as(change):
    """`LoRADelta.add_to` with the batch's slots changed by ``change(slots, max_loras)``."""

    def mutate(original):
        def add_to(self, output, x):
            right = self.batch
            self.batch = TokenBatch.of(change(right.slots, len(self.slots.lora_a)))
            try:
                return original(self, output, x)
            finally:
                self.batch = right

        return add_to

    return mutate


@plant(LoRADelta, "add_to", origin="K1, vllm #48421", clauses="MATH-3 MATH-2", anomalies="adapter-leak")
def minus_one_is_the_last_slot(original):
    """Tokens without an adapter index the last slot."""
    return served_as(lambda slots, count: [slot % count for slot in slots])(original)


@plant(LoRADelta, "add_to", origin="K1, vllm #49656", clauses="MATH-3 MATH-2", anomalies="adapter-leak")
def no_adapter_is_the_first_slot(original):
    """Tokens without an adapter get the first slot's."""
    return served_as(lambda slots, count: [max(slot, 0) for slot in slots])(original)


@plant(
    LoRADelta,
    "add_to",
    origin="one mapping per batch",
    clauses="MATH-2",
    anomalies="wrong-slot adapter-leak delta-dropped",
)
def the_first_tokens_adapter_for_all(original):
    """The first token's adapter serves the whole batch."""
    return served_as(lambda slots, count: [slots[0]] * len(slots))(original)


@plant(LoRADelta, "add_to", origin="off by one", clauses="MATH-2", anomalies="wrong-slot adapter-leak delta-dropped")
def the_last_token_follows_its_neighbour(original):
    """The last token gets the adapter of the one before it."""
    return served_as(lambda slots, count: [*slots[:-1], slots[max(0, len(slots) - 2)]])(original)


@plant(
    LoRADelta,
    "add_to",
    origin="sorted batches",
    clauses="MATH-2",
    anomalies="wrong-slot adapter-leak delta-dropped order-dependent",
)
def tokens_sorted_and_not_put_back(original):
    """Slots are sorted for the kernel while the tokens stay where they are."""
    return served_as(lambda slots, count: sorted(slots))(original)


@plant(LoRADelta, "add_to", origin="off by one", clauses="MATH-2 MATH-1", anomalies="delta-dropped delta-incomplete")
def the_last_token_is_left_out(original):
    """In a batch of several tokens the last gets nothing."""
    return served_as(lambda slots, count: [*slots[:-1], -1] if len(slots) > 1 else slots)(original)


@plant(
    LoRADelta, "add_to", origin="blocks of four", clauses="MATH-2 MATH-1", anomalies="delta-dropped delta-incomplete"
)
def tokens_beyond_the_fourth(original):
    """Tokens after the first block of four get nothing."""
    return served_as(lambda slots, count: [*slots[:4], *[-1] * (len(slots) - 4)])(original)


@plant(LoRADelta, "add_to", origin="slot 0 is falsy", clauses="MATH-1 MATH-2", anomalies="delta-dropped")
def slot_zero_is_no_slot(original):
    """The first slot is taken for no slot."""
    return served_as(lambda slots, count: [slot or -1 for slot in slots])(original)


@plant(LoRALinear, "set_batch", origin="M1, vllm #47724", clauses="MATH-2", anomalies="order-dependent wrong-slot")
def a_batch_of_the_same_length_is_the_same(original):
    """A new mapping is overlooked where the number of tokens is unchanged."""

    def set_batch(self, batch):
        if batch is None or len(batch) != len(self.delta.batch):
            original(self, batch)

    return set_batch


@plant(delta, "expand", origin="output written whole", clauses="MATH-3", anomalies="adapter-leak")
def every_row_is_rounded_again(original):
    """Rows without an adapter pass through the sum too, with a negligible zero."""

    def expand(hidden, lora_b, scaling, batch, output, **options):
        original(hidden, lora_b, scaling, batch, output, **options)
        output += torch.finfo(output.dtype).tiny

    return expand


@plant(delta, "expand", origin="atomics", clauses="MATH-3", anomalies="adapter-leak")
def a_neighbours_last_column(original):
    """The last column of a token before one with an adapter is moved by one unit in the last place."""

    def expand(hidden, lora_b, scaling, batch, output, **options):
        original(hidden, lora_b, scaling, batch, output, **options)
        for token in range(len(batch) - 1):
            if batch.slots[token] < 0 <= batch.slots[token + 1]:
                output[token, -1] = torch.nextafter(output[token, -1], torch.tensor(torch.inf, dtype=output.dtype))

    return expand


@plant(LoRADelta, "add_to", origin="state between calls", clauses="MATH-13", anomalies="not-repeatable")
def the_second_call_adds_less(original):
    """From the second forward on the last column is one unit in the last place off."""

    def add_to(self, output, x):
        again = self.served > 0
        output = original(self, output, x)
        if again and output.numel():
            column = output[..., -1]
            column.copy_(torch.nextafter(column, torch.full_like(column, torch.inf)))
        return output

    return add_to


@plant(LoRADelta, "add_to", origin="buffers re-used", clauses="MATH-13", anomalies="not-repeatable")
def the_first_call_uses_up_the_adapter(original):
    """The first forward overwrites B with what it made of it."""

    def add_to(self, output, x):
        output = original(self, output, x)
        self.slots.lora_b.mul_(0.5)
        return output

    return add_to


@plant(
    token_identity,
    "_strangers",
    origin="tokens mixed before the product",
    clauses="MATH-2",
    anomalies="wrong-slot adapter-leak delta-dropped",
)
def what_is_made_of_two_tokens_is_the_first_ones(original):
    """A row that is made of two tokens is served the adapter of whichever a function was given first."""
    return lambda one, other: False


@plant(
    delta,
    "tokens_of",
    origin="tokens mixed before the product",
    clauses="MATH-2",
    anomalies="wrong-slot adapter-leak delta-dropped",
)
def rows_that_nobody_can_follow_are_in_place(original):
    """Where nobody knows whose tokens rows are, they are taken to be the batch's, in its order."""

    def tokens_of(x):
        found = original(x)
        return list(range(x.shape[:-1].numel())) if found is None else found

    return tokens_of
