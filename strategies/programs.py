"""Programs: what happens to a model's adapters, step by step, as one value that shrinks to the shortest program."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import product

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy, composite

from strategies.adapters import SCALINGS, token_maps
from strategies.cases import AdapterSpec, _Named
from strategies.choices import sampled
from strategies.codec import Spec
from strategies.models import ModelSpec, ModuleSpec, models


class StepKind(_Named):
    """What a step does."""

    USE = "use"  # add, where it is not registered, and activate
    RUN = "run"  # map a batch's tokens to their adapters, and run every layer
    DEACTIVATE = "deactivate"
    ADD = "add"
    ACTIVATE = "activate"
    REMOVE = "remove"
    PIN = "pin"
    RERUN = "rerun"  # run every layer without mapping anew
    USE_FAILING = "use_failing"  # use, but the load of a layer in the middle raises


class Misfit(_Named):
    """What is wrong with an adapter's last tensors."""

    NONE = "none"
    RANK = "rank"  # above the largest
    WIDTH = "width"  # LoRA A has a column too many
    ROWS = "rows"  # LoRA B has a row too many
    NARROW = "narrow"  # LoRA A has a column too few
    SHORT = "short"  # LoRA B has a row too few
    INNER = "inner"  # LoRA B is of another rank than LoRA A


@dataclass(frozen=True, slots=True, repr=False)
class Step(Spec):
    """One step with its adapter; for `RUN` the number of the batch."""

    kind: StepKind = StepKind.RUN
    adapter: int = 0


@dataclass(frozen=True, slots=True, repr=False)
class ModelAdapterSpec(Spec):
    """An adapter: its part of each layer of the model, None for a layer it does not adapt."""

    parts: tuple[AdapterSpec | None, ...] = (AdapterSpec(),)
    misfit: Misfit = Misfit.NONE
    by_alias: bool = False

    @property
    def adapted(self) -> tuple[int, ...]:
        """The layers it adapts, by number."""
        return tuple(index for index, part in enumerate(self.parts) if part is not None)


@dataclass(frozen=True, slots=True, repr=False)
class Program(Spec):
    """A model, adapters, batches of tokens (indices of adapters, -1 for none), and what happens to them.

    After the last step the first batch is run. With ``from_disk`` adapters arrive as PEFT directories.
    """

    model: ModelSpec = ModelSpec()  # noqa: RUF009 - frozen
    steps: tuple[Step, ...] = ()
    adapters: tuple[ModelAdapterSpec, ...] = (ModelAdapterSpec(),)
    batches: tuple[tuple[int, ...], ...] = ((0,),)
    max_loras: int = 1
    max_adapters: int = 1
    max_rank: int = 8
    fully_sharded: bool = False
    evict: bool = True
    from_disk: bool = False
    seed: int = 0


LIFE = (StepKind.USE,) * 4 + (StepKind.RUN,) * 4 + (StepKind.DEACTIVATE,) * 2 + (
    StepKind.RERUN, StepKind.ADD, StepKind.ACTIVATE, StepKind.REMOVE, StepKind.PIN,
)  # fmt: skip
HOUSE = (StepKind.USE,) * 3 + (StepKind.ADD, StepKind.ACTIVATE, StepKind.PIN, StepKind.DEACTIVATE) * 2 + (
    StepKind.REMOVE,
)  # fmt: skip
MEETING_MISFITS = (StepKind.USE, StepKind.USE, StepKind.RUN, StepKind.DEACTIVATE)
FAULTS = (StepKind.USE_FAILING,) * 3 + (StepKind.USE, StepKind.RUN, StepKind.DEACTIVATE)


def programs(
    *,
    trees: SearchStrategy[ModelSpec] | None = None,
    kinds: tuple[StepKind, ...] = LIFE,
    steps: tuple[int, int] = (1, 14),
    adapters: tuple[int, int] = (1, 3),
    misfits: tuple[Misfit, ...] = (Misfit.NONE,),
    disk: tuple[bool, ...] = (False, False, False, True),
    evict: tuple[bool, ...] = (True, True, False),
    max_rank: int = 16,
) -> SearchStrategy[Program]:
    """Programs; shrinks to few steps on one layer.

    Args:
        trees: the models; `models` with one packed name per output unless given.
        kinds: the steps drawn from, each as often as it occurs.
        steps: least and most steps.
        adapters: least and most adapters.
        misfits: what may be wrong with an adapter.
        disk: whether adapters arrive as PEFT directories.
        evict: whether a full house evicts or refuses.
        max_rank: the largest rank.
    """
    if trees is None:
        trees = models(plain=True, aliases=(False,))
    return _programs(trees, kinds, steps, adapters, misfits, disk, evict, max_rank)


@composite
def _programs(
    draw: DrawFn,
    trees: SearchStrategy[ModelSpec],
    kinds: tuple[StepKind, ...],
    steps: tuple[int, int],
    adapters: tuple[int, int],
    misfits: tuple[Misfit, ...],
    disk: tuple[bool, ...],
    evict: tuple[bool, ...],
    max_rank: int,
) -> Program:
    model = draw(trees)
    count = draw(st.integers(*adapters))
    tokens = draw(st.integers(1, 4))
    batch = _batches(count, tokens)
    max_loras = draw(st.integers(1, 2))
    evicts = draw(sampled(evict))
    if not evicts:
        kinds = tuple(kind for kind in kinds if kind is not StepKind.PIN)
    batches = draw(st.lists(batch, min_size=1, max_size=2))
    drawn = draw(st.lists(_steps(kinds, count), min_size=steps[0], max_size=steps[1]))
    if steps[1] and draw(_mostly):  # a program that serves nobody shows nothing
        drawn = [Step(StepKind.USE, batches[0][0]), *drawn]
    return Program(
        model=model,
        steps=tuple(drawn),
        adapters=tuple(draw(_model_adapter(model.linears, misfits, max_rank)) for _ in range(count)),
        batches=tuple(batches),
        max_loras=max_loras,
        max_adapters=max_loras + draw(st.integers(0, 1)),
        max_rank=max_rank,
        fully_sharded=model.tp_size > 1 and draw(st.booleans()),
        evict=evicts,
        from_disk=draw(sampled(disk)),
        seed=draw(st.integers(0, 2**16 - 1)),
    )


@cache
def _steps(kinds: tuple[StepKind, ...], adapters: int) -> SearchStrategy[Step]:
    return st.builds(Step, sampled(kinds), st.integers(0, adapters - 1))


@cache
@composite
def _model_adapter(
    draw: DrawFn, layers: tuple[ModuleSpec, ...], misfits: tuple[Misfit, ...], max_rank: int
) -> ModelAdapterSpec:
    rslora = draw(st.booleans())
    ranks = tuple(rank for rank in ((1, 4, 16) if rslora else (1, 2, 3, 4, 8, 16)) if rank <= max_rank)
    absent = draw(st.lists(_sometimes, min_size=len(layers), max_size=len(layers)))
    if all(absent):
        absent[draw(st.integers(0, len(layers) - 1))] = False
    parts = tuple(
        None if missing else draw(_part(layer, ranks, rslora)) for layer, missing in zip(layers, absent, strict=True)
    )
    by_alias = any(layer.alias for layer in layers) and draw(st.booleans())
    return ModelAdapterSpec(parts, draw(sampled(misfits)), by_alias)


@cache
def _batches(adapters: int, tokens: int) -> SearchStrategy[tuple[int, ...]]:
    """Token maps whose first token has an adapter."""
    rest = token_maps(adapters=adapters, min_size=tokens - 1, max_size=tokens - 1)
    return st.builds(lambda first, others: (first, *others), st.integers(0, adapters - 1), rest)


_mostly = st.sampled_from((False, True, True, True))
_sometimes = st.sampled_from((False, False, True))


@cache
@composite
def _part(draw: DrawFn, layer: ModuleSpec, ranks: tuple[int, ...], rslora: bool) -> AdapterSpec:
    rank = draw(sampled(ranks))
    outputs, names = len(layer.layer.output_sizes), len(layer.packed)
    # Absent members only where each covers one output: the place of others cannot be told from their rows.
    patterns = [p for p in product((True, False), repeat=names) if any(p)] if names == outputs else []
    return AdapterSpec(
        rank=rank,
        alpha=draw(sampled(SCALINGS)) * (round(rank**0.5) if rslora else rank),
        rslora=rslora,
        present=draw(sampled(tuple(patterns))) if patterns else (True,) * max(1, names),
        fused=outputs > 1 and not names,
    )
