"""How the tokens of a batch lie: in runs, alternating, sorted, with strangers at the ends, or anyhow."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache
from itertools import cycle, islice

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from strategies.choices import mostly, numbers, sequences

MANY_TOKENS = (8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129)
Tokens = tuple[int, ...]


def runs(count: int, choices: Tokens, seed: int) -> Tokens:
    """Runs of one adapter after the other, of uneven lengths."""
    lengths = _lengths(count, len(choices), seed)
    return tuple(choice for choice, length in zip(choices, lengths, strict=True) for _ in range(length))


def ordered(count: int, choices: Tokens, seed: int) -> Tokens:
    """Sorted by adapter; those without one come first."""
    return tuple(sorted(anyhow(count, choices, seed)))


def alternating(count: int, choices: Tokens, seed: int) -> Tokens:
    """A neighbour never has the same adapter, where there are several choices."""
    start = seed % len(choices)
    return tuple(islice(cycle(choices[start:] + choices[:start]), count))


def one(count: int, choices: Tokens, seed: int) -> Tokens:
    """All tokens of one adapter."""
    return (choices[seed % len(choices)],) * count


def strangers_at_the_ends(count: int, choices: Tokens, seed: int) -> Tokens:
    """One run, but for its first token, its last, or both."""
    inside = choices[seed % len(choices)]
    stranger = choices[(seed + 1) % len(choices)]
    first, last = ((True, True), (True, False), (False, True))[seed // len(choices) % 3]
    middle = (inside,) * (count - first - last)
    return (stranger,) * first + middle + (stranger,) * last


def anyhow(count: int, choices: Tokens, seed: int) -> Tokens:
    """Each token by itself."""
    return tuple(random.Random(seed).choices(choices, k=count))


Grouping = Callable[[int, Tokens, int], Tokens]
GROUPINGS: tuple[Grouping, ...] = (one, runs, ordered, alternating, strangers_at_the_ends, anyhow)
_SEEDS = 64


@cache
def grouped(count: int, choices: Tokens) -> SearchStrategy[Tokens]:
    """``count`` tokens in any grouping; shrinks to all of the first choice."""

    def made(number: int) -> Tokens:
        kind, seed = divmod(number, _SEEDS)
        return GROUPINGS[kind](count, choices, seed)

    return numbers(len(GROUPINGS) * _SEEDS, "grouping").map(made)


@cache
def batches(
    choices: Tokens, *, few: int, many: Tokens = MANY_TOKENS, none: bool = False, what: str = "tokens"
) -> SearchStrategy[Tokens]:
    """A few tokens of any choices, seldom ``many`` in any grouping or, with ``none``, as often no token at all.

    Shrinks to one token of the first choice.
    """
    small = sequences(choices, min_size=1, max_size=few, what=what)
    seldom = [grouped(count, choices) for count in many]
    seldom += [st.just(())] * (len(many) if none else 0)
    return mostly((small,), tuple(seldom), f"many {what}").flatmap(lambda batch: batch)


def _lengths(count: int, parts: int, seed: int) -> list[int]:
    """``count`` cut into ``parts``, of which some may be empty."""
    cuts = sorted(random.Random(seed).choices(range(count + 1), k=parts - 1))
    return [end - start for start, end in zip([0, *cuts], [*cuts, count], strict=True)]
