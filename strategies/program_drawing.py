"""Programs and their frames: a model, adapters and batches, and what is left to happen to them."""

from __future__ import annotations

from functools import cache
from itertools import product

from hypothesis.strategies import DrawFn, SearchStrategy, composite

from strategies.adapters import SCALINGS, token_maps
from strategies.cases import AdapterSpec
from strategies.choices import mostly, numbers, sampled, sequences
from strategies.programs import Companion, Misfit, ModelAdapterSpec, Program, Step, StepKind
from strategies.tree_drawing import models
from strategies.trees import ModelSpec, ModuleSpec

RANKS = (1, 2, 3, 4, 8, 16, 65, 128)
ROOTED_RANKS = (1, 4, 16)  # √r is a power of two, so the scaling of rank-stabilised adapters is exact
COMPANIED = (*((),) * 9, *((one,) for one in Companion), tuple(Companion))
PLAIN = models(plain=True, aliases=(False,))


@composite
def frames(
    draw: DrawFn,
    *,
    trees: SearchStrategy[ModelSpec] = PLAIN,
    adapters: tuple[int, ...] = (1, 2, 3),
    misfits: tuple[Misfit, ...] = (),
    disk: tuple[bool, ...] = (False, False, False, True),
    evict: tuple[bool, ...] = (True, True, False),
    max_loras: tuple[int, ...] = (1, 2),
    spare: tuple[int, ...] = (0, 1),
    max_ranks: tuple[int, ...] = (16,),
    companions: tuple[tuple[Companion, ...], ...] = ((),),
) -> Program:
    """Programs without steps; shrinks to one adapter of one layer.

    Args:
        trees: the models; one packed name per output and no aliases unless given.
        adapters: how many adapters there are.
        misfits: what is wrong with the last adapter, if it is not to fit.
        disk: whether adapters arrive as PEFT directories.
        evict: whether a full house evicts or refuses.
        max_loras: how many adapters may be active.
        spare: how many more may be registered.
        max_ranks: the largest rank; no adapter has a larger one.
        companions: layers of other kinds in the model, where adapters come from memory.
    """
    model = draw(trees)
    # Many adapters, with a slot for each; or more slots than adapters; or ranks that no small model has.
    many = draw(mostly((0,), (4, 5, 6, 8), "many adapters"))
    count = many or draw(sampled(adapters, "adapters"))
    max_rank = draw(mostly(max_ranks, (128,), "max rank"))
    slots = many or draw(mostly(max_loras, (4, 5, 8, 9), "slots"))
    specs = [draw(_model_adapter(index, model.linears, max_rank)) for index in range(count)]
    if misfits:
        last = specs.pop()
        specs.append(ModelAdapterSpec(last.parts, draw(sampled(misfits, "misfit")), last.by_alias))
    sharded, evicts, from_disk = draw(_settings(model.tp_size > 1, evict, disk))
    fitting = count - bool(misfits)
    return Program(
        model=model,
        adapters=tuple(specs),
        batches=draw(mostly((0,), (8, 16, 17, 32, 33), "many tokens").flatmap(lambda most: _batches(fitting, most))),
        max_loras=slots,
        max_adapters=slots + draw(sampled(spare, "spare")),
        max_rank=max_rank,
        fully_sharded=sharded,
        evict=evicts,
        from_disk=from_disk,
        companions=() if from_disk else draw(sampled(companions, "companions")),
        seed=draw(numbers(2**16, "seed")),
    )


@composite
def programs(
    draw: DrawFn, frames: SearchStrategy[Program], *, kinds: tuple[StepKind, ...], steps: tuple[int, int]
) -> Program:
    """``frames`` with ``steps`` (least and most) steps of ``kinds``, and one that uses the first token's adapter.

    That is the first, or the last where none but the run after all steps would show it.
    """
    frame = draw(frames)
    every = tuple(Step(kind, adapter) for adapter in range(len(frame.adapters)) for kind in dict.fromkeys(kinds))
    drawn = draw(sequences(every, min_size=steps[0], max_size=steps[1], what="steps"))
    use = Step(StepKind.USE, frame.batches[0][0])
    return frame.with_steps(*drawn, use) if {*kinds} == {StepKind.USE} else frame.with_steps(use, *drawn)


@cache
def _settings(
    parallel: bool, evict: tuple[bool, ...], disk: tuple[bool, ...]
) -> SearchStrategy[tuple[bool, bool, bool]]:
    """Fully sharded, evicting, from disk."""
    return sampled(tuple(product((False, True) if parallel else (False,), evict, disk)), "settings")


@cache
def _batches(adapters: int, most: int = 0) -> SearchStrategy[tuple[tuple[int, ...], ...]]:
    """One or two token maps of one length, short or ``most``, whose first tokens have an adapter."""
    firsts = tuple(range(adapters))

    def of_shape(shape: tuple[int, int]) -> SearchStrategy[tuple[tuple[int, ...], ...]]:
        count, tokens = shape
        first = sequences(firsts, min_size=count, max_size=count, what="first tokens")
        rest = token_maps(adapters=adapters, min_size=count * (tokens - 1), max_size=count * (tokens - 1))
        return first.flatmap(
            lambda heads: rest.map(lambda tail: tuple((head, *tail[index::count]) for index, head in enumerate(heads)))
        )

    return sampled(tuple(product((1, 2), (most,) if most else (1, 2, 3, 4))), "batches and tokens").flatmap(of_shape)


@cache
@composite
def _model_adapter(draw: DrawFn, index: int, layers: tuple[ModuleSpec, ...], max_rank: int) -> ModelAdapterSpec:
    rslora = draw(sampled((False, True), f"rslora {index}"))
    ranks = tuple(rank for rank in (ROOTED_RANKS if rslora else RANKS) if rank <= max_rank)
    adapted = draw(_adapted(index, len(layers)))
    parts = tuple(
        draw(_part(index, number, layer, ranks, rslora)) if here else None
        for number, (layer, here) in enumerate(zip(layers, adapted, strict=True))
    )
    by_alias = any(layer.alias for layer in layers) and draw(sampled((False, True), f"alias {index}"))
    return ModelAdapterSpec(parts, by_alias=by_alias)


@cache
def _adapted(index: int, layers: int) -> SearchStrategy[tuple[bool, ...]]:
    """Which layers an adapter adapts, two of three of them as a rule, and never none."""
    every = [pattern for pattern in product((True, True, False), repeat=layers) if any(pattern)]
    return sampled(tuple(every), f"adapted by {index}")


@cache
def _part(
    adapter: int, index: int, layer: ModuleSpec, ranks: tuple[int, ...], rslora: bool
) -> SearchStrategy[AdapterSpec]:
    """An adapter's part of one layer; one draw, which costs more than the part's mathematics."""
    outputs, names = len(layer.layer.output_sizes), len(layer.packed)
    # Absent members only where each covers one output: the place of others cannot be told from their rows.
    patterns = [p for p in product((True, False), repeat=names) if any(p)] if names == outputs else []
    present = tuple(patterns) or ((True,) * max(1, names),)
    uneven = (False, False, False, True) if names > 1 and not rslora else (False,)
    return sampled(tuple(product(ranks, SCALINGS, present, uneven)), f"part {index} of {adapter}").map(
        lambda form: AdapterSpec(
            rank=form[0],
            alpha=form[1] * (round(form[0] ** 0.5) if rslora else form[0]),
            rslora=rslora,
            present=form[2],
            fused=outputs > 1 and not names,
            ranks=(form[0], *(max(1, form[0] // 2) for _ in range(names - 1))) if form[3] and form[0] > 1 else (),
        )
    )
