"""A class with a weight loader of its own gets the adapter's rows that its loader would give it, or is refused."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import pytest
import torch
from syrupy.assertion import SnapshotAssertion

from conformance.implementations.vllm.layers import VllmLayers
from lora_compat import LoRAConfig, ShardPlan, tensor_parallel, wrap_layer
from lora_compat.bound_loaders import LoaderError
from lora_compat.checkpoint_shards import ShardingError
from lora_compat.parallel import SingleGroup
from strategies.cases import Quantization
from tests.certification.screens import SUBJECTS, lora_compat
from tests.certification.subjects import own_loaders as own

COLUMNS = 3
RANKS = [(0, 1), (0, 2), (1, 2), (0, 4), (3, 4)]


@dataclass(frozen=True)
class Rank(SingleGroup):
    """One of several ranks; nothing here issues a collective."""

    rank: int
    size: int


def built(cls, rank: int, size: int, *arguments):
    """The layer as one rank builds it."""
    with tensor_parallel(Rank(rank, size)):
        return cls(COLUMNS, *arguments, bias=False)


SERVED = {
    # class: (constructor arguments, checkpoint rows by shard id)
    own.AsRankZeroLinear: (([8, 4],), {0: 8, 1: 4}),
    own.WithIndexerLinear: ((2, 4, 2), {"q": 8, "k": 4, "v": 4, "index_q": 4, "index_k": 2}),
    own.NamedPartsLinear: ((16,), {"query": 8, "key": 4, "gate": 4}),
    own.BoundWhenBuiltLinear: ((8,), {None: 8}),
    own.InReverseLinear: (([8, 4],), {0: 8, 1: 4}),
    own.WithItsOwnPlanLinear: (([8, 4],), {0: 8, 1: 4}),
}


@pytest.mark.parametrize(("rank", "size"), RANKS)
@pytest.mark.parametrize("cls", SERVED)
def test_every_slice_has_the_checkpoints_size_and_gets_the_rows_that_are_loaded(cls, rank: int, size: int) -> None:
    arguments, sizes = SERVED[cls]
    layer = built(cls, rank, size, *arguments)
    plan = ShardPlan.of(layer)
    assert [part.size for part in plan.slices] == list(sizes.values())
    tensors = [torch.randn(rows, COLUMNS) for rows in sizes.values()]
    for shard, tensor in zip(sizes, tensors, strict=True):
        layer.weight_loader(layer.weight, tensor, *(() if shard is None else (shard,)))
    found = torch.cat([plan.shard_b(tensor, index) for index, tensor in enumerate(tensors)])
    assert torch.equal(found, layer.weight.data)


@pytest.mark.parametrize("cls", SERVED)
def test_asking_the_loader_leaves_the_layer_as_it_was(cls) -> None:
    layer = built(cls, 1, 2, *SERVED[cls][0])
    layer.weight.data.fill_(1.0)  # what nobody has loaded may be NaN, which equals nothing
    before, weight = dict(vars(layer)), layer.weight.data.clone()
    ShardPlan.of(layer)
    assert vars(layer) == before
    assert torch.equal(layer.weight.data, weight)


@pytest.mark.parametrize(
    "cls", [own.InterleavedLinear, own.AddingLinear, own.HalfLoadedLinear, own.BoundByItsOwnRuleLinear]
)
def test_what_cannot_be_followed_is_refused_with_what_would_work(cls, snapshot: SnapshotAssertion) -> None:
    with pytest.raises(ShardingError) as raised:
        wrap_layer(built(cls, 0, 2, [4, 4]), LoRAConfig())
    assert str(raised.value) == snapshot


def test_one_rank_alone_serves_what_several_refuse() -> None:
    plan = ShardPlan.of(built(own.BoundByItsOwnRuleLinear, 0, 1, [4, 4]))
    assert [part.size for part in plan.slices] == [4, 4]


def test_a_class_that_packs_more_than_its_familys_loader_fills_is_refused(snapshot: SnapshotAssertion) -> None:
    class Packing(own.QKVParallelLinear):
        def _partition_sizes(self):
            return [*super()._partition_sizes(), 2]

    with pytest.raises(ShardingError) as raised:
        ShardPlan.of(built(Packing, 0, 2, 2, 4, 2))
    assert str(raised.value) == snapshot


def test_a_loader_that_the_weight_does_not_carry_is_refused_whatever_the_ranks(snapshot: SnapshotAssertion) -> None:
    for rank, size in RANKS:
        layer = built(own.CarryingItsFamilysLoaderLinear, rank, size, 16)
        with pytest.raises(LoaderError) as raised:
            ShardPlan.of(layer)
        layer.weight.weight_loader = layer.weight_loader
        assert [part.size for part in ShardPlan.of(layer).slices] == [8, 4, 4]
    assert str(raised.value) == snapshot


@pytest.mark.parametrize(("rank", "size"), RANKS)
def test_a_loader_that_only_the_weight_knows_of_gets_its_rows(rank: int, size: int) -> None:
    tensor = torch.randn(8, COLUMNS)
    layer = built(own.CarryingAnotherLoaderLinear, rank, size, 8)
    layer.weight.weight_loader(layer.weight, tensor)
    assert torch.equal(ShardPlan.of(layer).shard_b(tensor, 0), layer.weight.data)


@pytest.mark.parametrize(("rank", "size"), RANKS)
def test_nor_is_a_row_layers_input_cut_by_its_family_then(rank: int, size: int) -> None:
    with tensor_parallel(Rank(rank, size)):
        layer = own.CarryingAnotherRowLoaderLinear(8, COLUMNS)
    tensor = torch.randn(COLUMNS, 8)
    layer.weight.weight_loader(layer.weight, tensor)
    assert torch.equal(ShardPlan.of(layer).shard_a(tensor, 4), layer.weight.data)


class AsItsParameterSaysLinear(own.ColumnParallelLinear):
    """Loads along the dimension that the parameter calls its outputs, as vLLM's loaders do."""

    def weight_loader(self, param, loaded_weight, shard_id=None):
        rows = param.data.shape[param.output_dim]
        param.data.copy_(loaded_weight.narrow(param.output_dim, self.tp_rank * rows, rows))


@pytest.mark.parametrize(("rank", "size"), RANKS)
def test_a_weight_that_its_quant_method_has_transposed_loads_as_a_checkpoint_lies(rank: int, size: int) -> None:
    layer = built(AsItsParameterSaysLinear, rank, size, 8)
    plan = ShardPlan.of(layer)
    transposed = torch.nn.Parameter(layer.weight.data.t().to(torch.float8_e4m3fn), requires_grad=False)
    transposed.output_dim, transposed.input_dim = 1, 0
    layer.weight = transposed
    after = ShardPlan.of(layer)
    assert after.slices == plan.slices
    tensor = torch.randn(8, COLUMNS)
    assert torch.equal(after.shard_b(tensor, 0), plan.shard_b(tensor, 0))


def test_a_loader_that_is_wrapped_is_the_one_inside() -> None:
    layer = built(own.ColumnParallelLinear, 1, 2, 8)
    inside = layer.weight.weight_loader
    layer.weight.weight_loader = functools.wraps(inside)(lambda *given: inside(*given))
    assert ShardPlan.of(layer).loader is None


@pytest.mark.vllm
def test_a_class_on_vllms_layers_that_overrides_one_loader_is_refused_until_it_is_bound() -> None:
    library = VllmLayers()
    library.prepare()
    from vllm.model_executor.layers.linear import ColumnParallelLinear

    cls = type("Own", (ColumnParallelLinear,), {"weight_loader": own.NamedPartsLinear.weight_loader})
    cls.__module__ = "vllm.models.drawn"  # so that it keeps what its constructor binds, as vLLM's own do
    with library.ranked(Rank(1, 2)):
        layer = library.build(cls, {"input_size": COLUMNS, "output_size": 16, "bias": False}, Quantization.NONE)
    with pytest.raises(LoaderError, match=r"ColumnParallelLinear\.weight_loader_v2"):
        ShardPlan.of(layer)
    layer.weight.weight_loader = layer.weight_loader
    assert [part.size for part in ShardPlan.of(layer).slices] == [8, 4, 4]


def test_their_classes_are_certified() -> None:
    names = ("AsRankZeroLinear", "WithItsOwnPlanLinear")
    code, screen = lora_compat("certify", *(f"{SUBJECTS}.own_loaders:{name}" for name in names), "--max-examples", "4")
    assert code == 0, screen
