"""What an adapter adds to the weights of one expert, rightly and by each known mistake."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from conformance.judging.anomalies import constant, moved
from conformance.judging.anomalies.rank_mistakes import Change, blocks, dealt_columns, first_rows
from conformance.values.experts import SCALING
from lora_compat.adapters import SubAdapter
from lora_compat.expert_parts import ExpertAdapter
from strategies.experts import ExpertsCase

# Gate's and up's contribution [intermediate, hidden], and down's [hidden, intermediate]; None where there is none.
Deltas = tuple[Tensor | None, Tensor | None, Tensor | None]
Parts = tuple[SubAdapter | None, SubAdapter | None, SubAdapter | None]
Product = Callable[[SubAdapter], Tensor]
Factors = tuple[float, ...]
Mistake = Callable[[ExpertAdapter | None], Deltas]
_PLAIN: Factors = (SCALING,) * 3
NOTHING: Deltas = (None, None, None)


def right_deltas(case: ExpertsCase, adapter: ExpertAdapter | None) -> Deltas:
    """``s·B·A`` of each projection."""
    return _deltas(_parts(case, adapter))


def special_mistakes(case: ExpertsCase) -> Iterator[tuple[str, Mistake]]:
    """Mistakes of sharding and of fused tensors, with what each makes of one expert's adapter."""
    if case.tp_size > 1 and not case.expert_parallel:
        yield from _rank_mistakes(case)
    for alternating in (_taken_apart, _put_together):
        yield "slices-interleaved", partial(_changed_deltas, case, alternating)


_SCALED = (("scale-dropped", 1.0), ("delta-doubled", 2 * SCALING), ("scale-wrong", -SCALING))


def plain_mistakes(case: ExpertsCase) -> Iterator[tuple[str, Mistake]]:
    """Mistakes of packing and scaling, in all projections or in some."""
    yield "slices-swapped", lambda adapter: _deltas((*_parts(case, adapter)[1::-1], _parts(case, adapter)[2]))
    for name, factor in _SCALED:
        yield name, _with(case, factors=(factor, factor, factor))
    for name, factor in _SCALED:
        yield name, _with(case, factors=(SCALING, SCALING, factor))
        yield name, _with(case, factors=(factor, factor, SCALING))
    for present in ((1, 1, 0), (0, 0, 1), (1, 0, 1), (0, 1, 1), (1, 0, 0), (0, 1, 0)):
        yield "delta-incomplete", _with(case, factors=tuple(SCALING * here for here in present))


def _changed_deltas(case: ExpertsCase, change: Callable[[Tensor], Tensor], adapter: ExpertAdapter | None) -> Deltas:
    return _deltas(_parts(case, adapter, change))


def _rank_mistakes(case: ExpertsCase) -> Iterator[tuple[str, Mistake]]:
    """Mistakes of adapters that are cut over the ranks: B of gate and up by rows, A of down by columns."""
    ranks, hidden = case.tp_size, case.hidden_size
    others = [moved(shift, ranks) for shift in range(1, ranks)]
    sources: list[Callable[[int], int]] = [constant(0), lambda rank: ranks - 1 - rank, *others]
    for source in sources:
        rows, columns = (_changed(partial(_of_other_ranks, ranks, source, dim)) for dim in (0, 1))
        yield "shard-misplaced", _with(case, inner=rows)
        yield "shard-misplaced", _with(case, down=columns)
    yield "shard-misplaced", _with(case, down=_changed(dealt_columns(ranks)))
    if not case.fully_sharded:
        return
    yield "gather-skipped", _with(case, down=lambda part: _unsummed(part, ranks))
    for of_each in (True, False):
        yield "shard-misplaced", _with(case, down=_changed(first_rows(hidden, ranks, of_each=of_each)))
    local = -(-case.max_rank // ranks)
    yield "gather-skipped", _with(case, inner=lambda part: _by_rank(part, ranks, local, lambda rank, index: rank))
    orders: list[Callable[[int], int]] = [*others, lambda index: ranks - 1 - index]
    for order in orders:
        yield "gather-misordered", _with(case, inner=partial(_in_order, ranks, local, order))


def _with(
    case: ExpertsCase,
    *,
    factors: Factors = _PLAIN,
    inner: Product | None = None,
    down: Product | None = None,
) -> Mistake:
    """Other factors, or other products of B and A for gate and up, or for down."""
    return lambda adapter: _deltas(_parts(case, adapter), factors, inner or _product, down or _product)


def _deltas(
    parts: Parts,
    factors: Factors = _PLAIN,
    inner: Product | None = None,
    down: Product | None = None,
) -> Deltas:
    products = (inner or _product, inner or _product, down or _product)
    gate, up, below = (
        None if part is None else factor * multiply(part)
        for part, factor, multiply in zip(parts, factors, products, strict=True)
    )
    return gate, up, below


def _parts(
    case: ExpertsCase, adapter: ExpertAdapter | None, of_fused: Callable[[Tensor], Tensor] | None = None
) -> Parts:
    """Gate, up and down by themselves; the halves of a fused tensor share its A."""
    if adapter is None:
        return None, None, None
    if len(adapter.gate_up) == 2:
        return (*adapter.gate_up, adapter.down)
    (both,) = adapter.gate_up
    assert both is not None
    rows = both.lora_b if of_fused is None else of_fused(both.lora_b)
    gate, up = rows.split(case.intermediate_size)
    return SubAdapter(both.lora_a, gate), SubAdapter(both.lora_a, up), adapter.down


def _product(part: SubAdapter) -> Tensor:
    return (part.lora_b @ part.lora_a).double()


def _changed(change: Change) -> Product:
    return lambda part: _product(change(part))


def _taken_apart(rows: Tensor) -> Tensor:
    """Rows read as if gate's and up's alternated."""
    return torch.cat([rows[::2], rows[1::2]])


def _put_together(rows: Tensor) -> Tensor:
    """Rows of gate and up stored in turn."""
    return torch.stack(rows.chunk(2), dim=1).flatten(0, 1)


def _from(tensor: Tensor, ranks: int, source: Callable[[int], int], dim: int) -> Tensor:
    parts = tensor.chunk(ranks, dim=dim)
    return torch.cat([parts[source(rank)] for rank in range(ranks)], dim=dim)


def _unsummed(part: SubAdapter, ranks: int) -> Tensor:
    """A rank's output rows see what its own columns of A yield, and nothing else."""
    delta = torch.zeros_like(_product(part))
    rows, columns = delta.shape[0], delta.shape[1] // ranks
    for rank in range(ranks):
        mine = slice(rank * rows // ranks, (rank + 1) * rows // ranks), slice(rank * columns, (rank + 1) * columns)
        delta[mine] = _product(part)[mine]
    return delta


def _of_other_ranks(ranks: int, source: Callable[[int], int], dim: int, part: SubAdapter) -> SubAdapter:
    """The rows of B, or the columns of A, that other ranks have."""
    if dim == 0:
        return SubAdapter(part.lora_a, _from(part.lora_b, ranks, source, 0))
    return SubAdapter(_from(part.lora_a, ranks, source, 1), part.lora_b)


def _in_order(ranks: int, local: int, order: Callable[[int], int], part: SubAdapter) -> Tensor:
    """The blocks of A gathered in another order."""
    return _by_rank(part, ranks, local, lambda rank, index: order(index))


def _by_rank(part: SubAdapter, ranks: int, local: int, source: Callable[[int, int], int]) -> Tensor:
    """Each rank's rows of B with the blocks of A that it takes for the gathered ones."""
    deltas = [_product(blocks(local, ranks, partial(source, rank))(part)).chunk(ranks)[rank] for rank in range(ranks)]
    return torch.cat(deltas)
