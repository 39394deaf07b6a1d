"""Whatever a class's own forward does to its tokens, each is served its own adapter, or the batch is refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import Phase
from torch import Tensor, nn

import lora_compat
from benchmarks.power.hunting import reference_subject
from conformance.judging.assertions import assert_merged_equivalence
from conformance.search.drawing import draw_cases
from conformance.subjects.outcomes import SubjectRefused
from lora_compat.adapters import LayerAdapter, SubAdapter
from lora_compat.errors import LoRAError, TokenOrderError
from lora_compat.kernels import TokenBatch
from lora_compat.layers import ReplicatedLinear
from lora_compat.token_identity import TokenInput
from strategies.cases import Case, Layout
from strategies.drawing import cases
from strategies.forwards import Forward

SLOTS = (0, 1, -1, 1, 0)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    torch.set_num_threads(1)
    with torch.no_grad():
        yield


@pytest.mark.parametrize("forward", [one for one in Forward if one is not Forward.OWN], ids=lambda one: one.value)
def test_the_reference_serves_forwards_of_every_kind_or_says_that_nobody_can(forward: Forward) -> None:
    subject, served = reference_subject(), Counter[Forward]()

    def judge(case: Case) -> None:
        try:
            assert_merged_equivalence(subject, case, needs_signal=False)
        except SubjectRefused as refusal:
            if forward.mixes_tokens and "TokenOrderError" in refusal.reason:
                return
            raise
        served[case.subclass.forward] += 1

    source = cases(forwards=(forward,), min_depth=1, tp_sizes=(1, 2), layouts=tuple(Layout))
    draw_cases(source, judge, examples=20, seed=1, phases=(Phase.generate,))
    assert served[forward] > 5


def wrapped(forward: Callable[[nn.Module, Tensor], Tensor], slots: tuple[int, ...] = SLOTS) -> nn.Module:
    """A layer of four inputs with this forward and two adapters."""
    cls = type("Drawn", (ReplicatedLinear,), {"forward": forward})
    layer = lora_compat.wrap_layer(cls(4, 3, bias=False), lora_compat.LoRAConfig(max_loras=2, max_lora_rank=2))
    generator = torch.Generator().manual_seed(1)
    layer.base_layer.weight.data.copy_(torch.randint(-3, 4, (3, 4), generator=generator))
    for slot in (0, 1):
        a, b = (torch.randint(-3, 4, shape, generator=generator).float() for shape in ((2, 4), (3, 2)))
        layer.set_lora(slot, LayerAdapter((SubAdapter(a, b),), 2.0))
    layer.set_batch(TokenBatch.of(slots))
    return layer


def right(layer: nn.Module, x: Tensor, slots: tuple[int, ...] = SLOTS) -> Tensor:
    rows = []
    for row, slot in zip(x, slots, strict=True):
        out = layer.base_layer.weight.data.as_subclass(Tensor) @ row
        if slot >= 0:
            out = out + 2 * layer.slots.lora_b[slot] @ (layer.slots.lora_a[slot, 0] @ row)
        rows.append(out)
    return torch.stack(rows)


def product(layer: nn.Module, x: Tensor) -> Tensor:
    return ReplicatedLinear.forward(layer, x)[0]


def sort_by_value(layer: nn.Module, x: Tensor) -> Tensor:
    order = x[:, 0].argsort()
    return product(layer, x[order])[order.argsort()]


def roll(layer: nn.Module, x: Tensor) -> Tensor:
    return product(layer, x.roll(2, 0)).roll(-2, 0)


def one_by_one(layer: nn.Module, x: Tensor) -> Tensor:
    return torch.stack([product(layer, row[None])[0] for row in x.unbind()])


def interleaved(layer: nn.Module, x: Tensor) -> Tensor:
    both = product(layer, torch.cat(tensors=[x[::2], x[1::2]]))
    out = torch.empty_like(both)
    out[::2], out[1::2] = both[: len(out[::2])], both[len(out[::2]) :]
    return out


def with_residual(layer: nn.Module, x: Tensor) -> Tensor:
    return product(layer, (x + x.relu() - x.relu()).contiguous())


def rotated(layer: nn.Module, x: Tensor) -> Tensor:
    there = torch.eye(4).roll(1, 0)
    return product(layer, nn.functional.linear(x @ there, there))


def normalized(layer: nn.Module, x: Tensor) -> Tensor:
    return product(layer, x * (x.abs().amax(-1, keepdim=True) + 1).div(0.5)) / (x.abs().amax(-1, keepdim=True) + 1) / 2


def reversed_after_a_rotation(layer: nn.Module, x: Tensor) -> Tensor:
    there = torch.eye(4).roll(1, 0)
    return product(layer, (x.flip(0) @ there) @ there.t()).flip(0)


@pytest.mark.parametrize(
    "forward",
    [sort_by_value, roll, one_by_one, interleaved, with_residual, rotated, normalized, reversed_after_a_rotation],
)
def test_tokens_that_can_be_followed_are_served(forward: Callable[[nn.Module, Tensor], Tensor]) -> None:
    x = torch.randint(-3, 4, (5, 4), generator=torch.Generator().manual_seed(2)).float()
    layer = wrapped(forward)
    out = layer(x)
    assert not isinstance(out, TokenInput)
    assert torch.equal(out, right(layer, x))


def through_numpy(layer: nn.Module, x: Tensor) -> Tensor:
    return product(layer, torch.tensor(x.tolist()).flip(0)).flip(0)


def written_over(layer: nn.Module, x: Tensor) -> Tensor:
    x = x.clone()
    x.copy_(x.flip(0))
    return product(layer, x).flip(0)


def assigned(layer: nn.Module, x: Tensor) -> Tensor:
    x = x.clone()
    x[:] = x.flip(0)
    return product(layer, x).flip(0)


def mixed(layer: nn.Module, x: Tensor) -> Tensor:
    return product(layer, x + x.flip(0))


def written_through_a_view(layer: nn.Module, x: Tensor) -> Tensor:
    x, flipped = x.clone(), x.flip(0)
    for row in range(5):
        x[row].copy_(flipped[row])
    return product(layer, x).flip(0)


def written_as_out(layer: nn.Module, x: Tensor) -> Tensor:
    turned = x.clone()
    torch.index_select(x, 0, torch.arange(4, -1, -1), out=turned)
    return product(layer, turned).flip(0)


def other_data(layer: nn.Module, x: Tensor) -> Tensor:
    turned = x.clone()
    turned.data = x.flip(0)
    return product(layer, turned).flip(0)


def permuted_by_a_matrix(layer: nn.Module, x: Tensor) -> Tensor:
    turn = torch.eye(5).flip(0)
    return turn @ product(layer, x * 0 + turn @ x)


def sorted_by_columns(layer: nn.Module, x: Tensor) -> Tensor:
    x = torch.arange(5.0, 0, -1)[:, None].expand(5, 4) + x * 0
    return product(layer, x * 0 + x.sort(dim=0).values).flip(0)


REFUSED = [
    through_numpy,
    written_over,
    assigned,
    mixed,
    written_through_a_view,
    written_as_out,
    other_data,
    permuted_by_a_matrix,
    sorted_by_columns,
]


@pytest.mark.parametrize("forward", REFUSED)
def test_tokens_that_cannot_be_followed_are_refused_where_it_matters(
    forward: Callable[[nn.Module, Tensor], Tensor],
) -> None:
    x = torch.randint(-3, 4, (5, 4), generator=torch.Generator().manual_seed(2)).float()
    with pytest.raises(TokenOrderError, match="batch tokens of one adapter only"):
        wrapped(forward)(x)
    if forward not in (mixed, sorted_by_columns):
        alone = wrapped(forward, (1,) * 5)
        assert torch.equal(alone(x), right(alone, x, (1,) * 5))


@pytest.mark.parametrize("forward", [product, roll])
def test_a_compiled_forward_is_right_or_refused(forward: Callable[[nn.Module, Tensor], Tensor]) -> None:
    x = torch.randint(-3, 4, (5, 4), generator=torch.Generator().manual_seed(2)).float()
    layer = wrapped(forward)
    try:
        out = torch.compile(layer, backend="eager")(x)
    except LoRAError:
        return
    assert torch.equal(out, right(layer, x))
