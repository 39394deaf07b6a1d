"""Cases of a mixture of experts with adapters; routing is given."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import combinations, permutations, product

from hypothesis.strategies import DrawFn, SearchStrategy, composite

from strategies.choices import mostly, numbers, sampled, sequences
from strategies.codec import Spec
from strategies.groupings import batches


@dataclass(frozen=True, slots=True, repr=False)
class ExpertsAdapterSpec(Spec):
    """One adapter of a mixture: its slot and rank, whether gate and up come as one tensor, and what it has.

    ``experts`` says for each expert whether it is adapted; ``parts`` whether gate, up and down are.
    """

    slot: int = 0
    rank: int = 1
    fused: bool = False
    experts: tuple[bool, ...] = (True,)
    parts: tuple[bool, bool, bool] = (True, True, True)


@dataclass(frozen=True, slots=True, repr=False)
class ExpertsCase(Spec):
    """A mixture, its adapters, and for each token the index of its adapter (-1 for none) and its experts.

    With ``reused`` each of their slots held and served an adapter of the largest rank before, nothing but NaN.
    All values are small integers, a pure function of ``seed``, in float32; the activation is a ReLU, so every
    product and sum is exact. The weights of the routing are powers of two.
    """

    experts: int = 1
    hidden_size: int = 1
    intermediate_size: int = 1
    tp_size: int = 1
    expert_parallel: bool = False
    fully_sharded: bool = False
    max_loras: int = 1
    max_rank: int = 4
    adapters: tuple[ExpertsAdapterSpec, ...] = (ExpertsAdapterSpec(),)
    tokens: tuple[int, ...] = (0,)
    routing: tuple[tuple[int, ...], ...] = ((0,),)
    reused: bool = False
    seed: int = 0

    @property
    def token_slots(self) -> tuple[int, ...]:
        """The slot that serves each token, -1 for none."""
        return tuple(self.adapters[index].slot if index >= 0 else -1 for index in self.tokens)

    @property
    def top_k(self) -> int:
        """How many experts a token is routed to."""
        return len(self.routing[0]) if self.routing else 1

    @property
    def shared_evenly(self) -> bool:
        """Whether the ranks can share the mixture: by whole experts, or by parts of each."""
        shared = self.experts if self.expert_parallel else self.intermediate_size
        return shared % self.tp_size == 0

    @property
    def rank_shards(self) -> int:
        """Into how many parts the layer cuts the LoRA rank: what expert parallelism holds whole is not cut."""
        return self.tp_size if self.fully_sharded and not self.expert_parallel else 1


@cache
def experts_cases(*, tp_sizes: tuple[int, ...] = (1, 2, 4)) -> SearchStrategy[ExpertsCase]:
    """Cases; shrinks to one expert, one rank, one adapter of rank 1, one token."""
    return _experts_cases(tp_sizes)


@composite
def _experts_cases(draw: DrawFn, tp_sizes: tuple[int, ...]) -> ExpertsCase:
    tp_size = draw(sampled(tp_sizes, "ranks"))
    expert_parallel = tp_size > 1 and draw(sampled(_EITHER, "expert parallel"))
    units = draw(mostly((1, 2, 3), (7, 8, 9, 16), "experts"))
    experts = units * tp_size if expert_parallel else units + draw(sampled((0, 1), "one more"))
    inner = draw(sampled((1, 2, 2, 3, 3, 4, 4), "intermediate")) * (1 if expert_parallel else tp_size)
    max_loras, slots = draw(_slots)
    max_rank = draw(sampled((4, 3, 1, 8), "largest rank"))
    adapters = tuple(draw(_adapter(index, slot, experts, max_rank)) for index, slot in enumerate(slots))
    tokens = draw(batches((*range(len(slots)), *range(len(slots)), -1), few=8, many=_MANY, none=True))
    top_k = min(experts, draw(sampled((1, 2, 2), "top k")))
    choices = tuple(combinations(range(experts), top_k))
    return ExpertsCase(
        experts=experts,
        hidden_size=draw(sampled((1, 2, 2, 3, 3), "hidden")),
        intermediate_size=inner,
        tp_size=tp_size,
        expert_parallel=expert_parallel,
        fully_sharded=tp_size > 1 and draw(sampled(_EITHER, "fully sharded")),
        max_loras=max_loras,
        max_rank=max_rank,
        adapters=adapters,
        tokens=tokens,
        routing=draw(sequences(choices, min_size=len(tokens), max_size=len(tokens), what="routing")),
        reused=draw(sampled(_SELDOM, "reused slots")),
        seed=draw(numbers(64, "values")),
    )


@cache
@composite
def _adapter(draw: DrawFn, index: int, slot: int, experts: int, max_rank: int) -> ExpertsAdapterSpec:
    name = f"adapter {index}"
    fused = draw(sampled(_EITHER, f"{name}, fused"))
    parts = draw(sampled(_PARTS, f"{name}, parts"))
    return ExpertsAdapterSpec(
        slot=slot,
        rank=draw(sampled(tuple(range(1, max_rank + 1)), f"{name}, rank")),
        fused=fused and parts[0] and parts[1],
        experts=draw(sequences(_MOSTLY, min_size=experts, max_size=experts, what=f"{name}, experts")),
        parts=parts,
    )


_EITHER = (False, True)
_MANY = (8, 15, 16, 17, 31, 32, 33)
_SELDOM = (False, False, True)
_MOSTLY = (*(True,) * 11, False)
# All three more often: what a lone one changes is often cancelled by a gate that is shut.
_ALL = (True, True, True)
_PARTS = (*(_ALL,) * 14, *(parts for parts in product((True, False), repeat=3) if any(parts)))
_slots = sampled(
    tuple((total, slots) for total in (1, 2, 3) for count in (1, 2) for slots in permutations(range(total), count)),
    "slots",
)
