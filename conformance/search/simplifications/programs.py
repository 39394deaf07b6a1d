"""Simpler neighbours of a program, or of a question about targets; the largest simplifications first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from conformance.search.simplifications.experts import simpler_experts
from conformance.search.simplifications.models import simpler_models
from conformance.search.simplifications.parts import by_default, changed, less, max_ranks, one_less, one_plainer, put
from lora_compat.families import Family
from strategies.cases import AdapterSpec, LayerSpec
from strategies.codec import Spec
from strategies.experts import ExpertsCase
from strategies.models.cases import ModelCase
from strategies.programs import ModelAdapterSpec, Program, Step, StepKind
from strategies.subclasses import SubclassSpec
from strategies.target_questions import TargetQuestion
from strategies.trees import ModelSpec, ModuleKind, ModuleSpec

_SEEDS = 3
_PLAIN = (StepKind.USE, StepKind.RUN)


def simpler_whole(spec: Spec) -> Iterator[Spec]:
    """Every program, question or mixture that is plainer than ``spec`` in one part and makes sense."""
    if isinstance(spec, ExpertsCase):
        yield from simpler_experts(spec)
    if isinstance(spec, ModelCase):
        yield from simpler_models(spec)
    if isinstance(spec, TargetQuestion):
        yield from _questions(spec)
    if isinstance(spec, Program):
        for changed in (*_steps(spec), *_trees(spec), *_adapters(spec), *_batches(spec), *_settings(spec)):
            if changed != spec and changed.model.linears:
                yield changed


def _questions(question: TargetQuestion) -> Iterator[TargetQuestion]:
    targets = question.targets or ()
    if len(targets) > 1:
        yield from (replace(question, targets=left) for left in one_less(targets))
    for at, module in enumerate(question.model.modules):
        left = put(question.model.modules, at)
        if any(one.kind is ModuleKind.LINEAR for one in left):
            yield replace(question, model=replace(question.model, modules=left))
        yield from (replace(question, model=model) for model in _plainer_module(question.model, at, module))
    yield from (replace(question, model=model) for model in by_default(question.model, "tp_size"))


def _steps(program: Program) -> Iterator[Program]:
    steps = program.steps
    for length in sorted({len(steps), len(steps) // 2, 2, 1}, reverse=True):
        if 0 < length <= len(steps):
            for at in range(len(steps) - length + 1):
                yield replace(program, steps=(*steps[:at], *steps[at + length :]))
    yield from (replace(program, steps=plainer) for plainer in one_plainer(steps, _plainer_step))


def _plainer_step(step: Step) -> Iterator[Step]:
    if step.kind not in _PLAIN:
        yield from (Step(kind, step.adapter) for kind in _PLAIN)
    yield from by_default(step, "adapter")


def _trees(program: Program) -> Iterator[Program]:
    model = program.model
    yield from by_default(program, "companions")
    yield from (replace(program, companions=companions) for companions in one_less(program.companions))
    if model.tp_size > 1:
        yield replace(program, model=replace(model, tp_size=1), fully_sharded=False)
    yield from (replace(program, model=plainer) for plainer in by_default(model, "tower"))
    index = -1
    for at, module in enumerate(model.modules):
        index += module.kind is ModuleKind.LINEAR
        left = replace(model, modules=put(model.modules, at))
        if module.kind is not ModuleKind.LINEAR:
            yield replace(program, model=left)
            continue
        without = tuple(replace(a, parts=put(a.parts, index)) for a in program.adapters)
        if len(model.linears) > 1 and all(adapter.adapted for adapter in without):
            yield replace(program, model=left, adapters=without)
        for plainer in _plainer_module(model, at, module):
            changed = plainer.modules[at]
            count = max(1, len(changed.packed))
            yield replace(
                program, model=plainer, adapters=tuple(_fitted(one, index, count) for one in program.adapters)
            )


def _plainer_module(model: ModelSpec, at: int, module: ModuleSpec) -> Iterator[ModelSpec]:
    """The model with one of its layers plainer: the plainest of all, of the base class, without a second name."""
    plain = ModuleSpec(alias=module.alias and "layers.0.mlp.shared.gate", alias_first=module.alias_first)
    taken = {name for one in model.modules if one is not module for name in one.names}
    names = [plain.name, "layers.1.mlp.gate", "layers.0.attn.kv_a_proj"]
    name = next((one for one in names if one not in taken), module.name)
    small = LayerSpec(family=module.layer.family, output_sizes=(model.tp_size,), input_size=model.tp_size)
    candidates = [replace(plain, name=name)] if module.alias == "" or name == plain.name else []
    if module.layer.family is Family.MERGED_COLUMN:
        small = replace(small, output_sizes=(model.tp_size,) * len(module.layer.output_sizes))
    candidates += [] if module.layer.family is Family.QKV else [replace(module, layer=small)]
    candidates += [
        replace(module, layer=replace(module.layer, bias=False)),
        replace(module, subclass=SubclassSpec()),
        replace(module, alias="", alias_first=False),
        replace(module, alias_first=False),
    ]
    if module.kind is ModuleKind.LINEAR:
        yield from (replace(model, modules=put(model.modules, at, one)) for one in candidates if one != module)


def _fitted(adapter: ModelAdapterSpec, index: int, count: int) -> ModelAdapterSpec:
    """The adapter for a layer that has another number of parts now."""
    part = adapter.parts[index]
    if part is None or len(part.present) == count:
        return adapter
    fitted = replace(part, present=(True,) * count, fused=False, ranks=())
    return replace(adapter, parts=(*adapter.parts[:index], fitted, *adapter.parts[index + 1 :]))


def _adapters(program: Program) -> Iterator[Program]:
    for number, adapter in enumerate(program.adapters):
        if len(program.adapters) > 1:
            yield _without_adapter(program, number)
        for one in _plainer_adapter(adapter):
            if not program.from_disk or len({part.rslora for part in one.parts if part}) < 2:  # a config says it once
                yield replace(program, adapters=put(program.adapters, number, one))


def _without_adapter(program: Program, number: int) -> Program:
    """Its steps go with it, and the tokens it served are the first adapter's."""

    def moved(other: int) -> int:
        return other - (other > number) if other != number else 0

    return replace(
        program,
        adapters=put(program.adapters, number),
        steps=tuple(
            step if step.kind in (StepKind.RUN, StepKind.RERUN) else replace(step, adapter=moved(step.adapter))
            for step in program.steps
            if step.kind in (StepKind.RUN, StepKind.RERUN) or step.adapter != number
        ),
        batches=tuple(tuple(moved(token) for token in batch) for batch in program.batches),
    )


def _plainer_adapter(adapter: ModelAdapterSpec) -> Iterator[ModelAdapterSpec]:
    yield from by_default(adapter, "misfit", "by_alias")
    unrooted = (part and replace(part, alpha=part.scaling * part.rank, rslora=False) for part in adapter.parts)
    yield replace(adapter, parts=tuple(unrooted))
    for at, part in enumerate(adapter.parts):
        if part is None:
            continue
        count = len(part.present)
        for plainer in (
            AdapterSpec(present=(True,) * count, fused=part.fused),
            part.of_rank(1),
            replace(part, ranks=()),
            replace(part, alpha=float(part.rank), rslora=False),
            replace(part, present=(True,) * count),
        ):
            if plainer != part:
                yield replace(adapter, parts=put(adapter.parts, at, plainer))
        if len(adapter.adapted) > 1:
            yield replace(adapter, parts=put(adapter.parts, at, None))


def _batches(program: Program) -> Iterator[Program]:
    batches = program.batches
    if len(batches) > 1:
        yield from (replace(program, batches=(batch,)) for batch in batches)
    count = len(batches[0])
    for length in less(count, 4):
        yield replace(program, batches=tuple(batch[:length] for batch in batches))
        yield replace(program, batches=tuple(batch[count - length :] for batch in batches))
    for at in range(count):
        if count > 1:
            yield replace(program, batches=tuple(put(batch, at) for batch in batches))
    plainer = one_plainer(batches, lambda batch: one_plainer(batch, lambda token: (0,) * (token > 0)))
    yield from (replace(program, batches=changed_ones) for changed_ones in plainer)


def _settings(program: Program) -> Iterator[Program]:
    yield from by_default(program, "fully_sharded", "from_disk", "evict")
    if program.max_loras > 1:
        yield replace(program, max_loras=1)
        yield replace(program, max_loras=2, max_adapters=max(2, program.max_adapters))
        yield replace(program, max_loras=1, max_adapters=1)
    if program.max_adapters > program.max_loras:
        yield replace(program, max_adapters=program.max_loras)
    ranks = [part.rank for adapter in program.adapters for part in adapter.parts if part]
    yield from changed(program, *max_ranks(program.max_rank, ranks))
    yield from (replace(program, seed=seed) for seed in range(min(program.seed, _SEEDS)))
