"""MODEL: from an adapter file to a model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from conformance.engines.ranks import RankGroup
from conformance.implementations.models import EXPERTS, ModelServer, ModelSettings
from conformance.judging.anomalies.models import VANISHED
from conformance.judging.models import adds_something, reaches, require_merged, require_same, unnamed
from conformance.judging.verdicts import Violation
from conformance.subjects.models.adapters import cut
from conformance.subjects.models.chains import Chain
from conformance.subjects.models.observing import (
    Readings,
    Refusal,
    attempt,
    chains,
    loaded,
    on_ranks,
    refused,
    right_readings,
    server_of,
    settings_of,
)
from conformance.subjects.models.writings import writings
from conformance.subjects.outcomes import FileRefused, NotExercised, SubjectRaised
from conformance.subjects.subject import Subject
from conformance.suite.checking import check
from strategies.models.cases import ModelCase, model_cases

T = TypeVar("T")
_KEYS = 4  # tensors of a file that are looked at one by one
Seen = tuple[Readings, Readings, Readings]


def on_all(subject: Subject, case: ModelCase, program: Callable[[RankGroup], T]) -> list[T]:
    """`on_ranks`; a forward that runs without adapters, and does not with them, breaks the clause."""
    __tracebackhide__ = True
    try:
        return on_ranks(subject, case, program)
    except SubjectRaised as error:
        raise Violation("raised", str(error.failure.error), case) from error


def served(server: ModelServer, chain: Chain, settings: ModelSettings, group: RankGroup) -> Seen | Refusal:
    """One rank's readings of the base, of the merged checkpoint and with the adapter, or why it was not loaded."""
    right = right_readings(server, chain, settings, group)
    model = server.load(chain.base, settings, group)
    base = model.read(None)
    model.serve_adapters()
    refusal = attempt(lambda: model.add(1, chain.adapter))
    return refusal or (base, right, model.read(1))


def require_served(subject: Subject, case: ModelCase, how: str = "") -> None:
    """Raises where the model with the adapter is not the merged checkpoint.

    Raises:
        FileRefused: the adapter is refused by name.
        Violation: it is loaded and wrong, or not loaded for a reason that names nothing.
    """
    __tracebackhide__ = True
    server, chain = server_of(subject), chains().of(case)
    settings = settings_of(case, chain)
    seen = on_all(subject, case, lambda group: served(server, chain, settings, group))
    refusals = [one for one in seen if isinstance(one, Refusal)]
    if refusals:
        raise refused(refusals[0], chain) or unnamed(case, refusals[0])
    require_merged(case, chain, [one for one in seen if not isinstance(one, Refusal)], how)


@check("MODEL-1", model_cases(tp_sizes=(1, 1, 2)))
def test_every_tensor_of_the_file_changes_what_is_computed_or_is_refused_by_name(
    subject: Subject, case: ModelCase
) -> None:
    server, chain = server_of(subject), chains().of(case)
    settings = settings_of(case, chain)
    every = chain.file.keys_by_module()
    pairs = every[:: max(1, len(every) // _KEYS)]
    if not pairs:
        raise NotExercised("PEFT wrote no tensor")
    for number, own in enumerate(pairs):
        others = {key for keys in every for key in keys} - set(own)
        for name, keys in ((f"only-{number}", set(own)), (f"without-{number}", others)):
            if keys and not (chain.root / name).exists():
                cut(chain.adapter, chain.root / name, keys)

    def program(group: RankGroup) -> tuple[Refusal | None, list[Refusal | bool], list[bool], list[bool]]:
        right = right_readings(server, chain, settings, group)
        model = server.load(chain.base, settings, group)
        base = model.read(None)
        model.serve_adapters()
        refusal = attempt(lambda: model.add(1, chain.adapter))
        whole = base if refusal else model.read(1)
        model.remove(1)
        alone: list[Refusal | bool] = []
        among: list[bool] = []
        for number in range(len(pairs)):
            only = chain.root / f"only-{number}"
            alone.append(attempt(lambda path=only: model.add(1, path)) or _differ(base, model.read(1)))
            model.remove(1)
            without = chain.root / f"without-{number}"
            left_out = not refusal and without.exists() and attempt(lambda path=without: model.add(1, path)) is None
            among.append(not left_out or _differ(whole, model.read(1)))
            model.remove(1)
        owners = [[pair for pair in chain.file.pairs if pair.key_a in own] for own in pairs]
        return refusal, alone, among, [reaches(one, base, right) for one in owners]

    ranks = on_all(subject, case, program)
    refusal = ranks[0][0]
    if refusal is not None and not refusal.named(chain):
        raise unnamed(case, refusal)
    reached = [number for number in range(len(pairs)) if case.tp_size > 1 or any(rank[3][number] for rank in ranks)]
    if not reached:
        raise NotExercised("the class serves no such module: the merged checkpoint computes what the base does")
    for number, own in ((number, pairs[number]) for number in reached):
        alone = [rank[1][number] for rank in ranks]
        if not any(alone):
            raise Violation(VANISHED, f"{own[-1]} by itself: loaded, and no module computes anything else", case)
        by_itself = next((one for one in alone if isinstance(one, Refusal)), None)
        if by_itself is not None and not by_itself.named(chain):
            raise Violation("raised", f"{own[-1]} by itself: {by_itself}", case)
        if not any(rank[2][number] for rank in ranks):
            raise Violation(VANISHED, f"{own[-1]} among the others: without it the model computes the same", case)


def _differ(one: Readings, other: Readings) -> bool:
    return any(adds_something(one[name], other[name]) for name in one)


@check("MODEL-2", model_cases())
def test_base_and_adapter_are_the_merged_checkpoint(subject: Subject, case: ModelCase) -> None:
    try:
        require_served(subject, case)
    except Violation as found:
        if found.anomaly == VANISHED:
            raise NotExercised(f"wrong without what MODEL-2 is about already [{VANISHED}]") from found
        raise


@check("MODEL-3", model_cases(tp_sizes=(1,), saved=False))
def test_any_way_of_writing_the_adapter_gives_the_same(subject: Subject, case: ModelCase) -> None:
    server, chain = server_of(subject), chains().of(case)
    settings = settings_of(case, chain)
    others = writings(case, chain)
    if not others:
        raise NotExercised("there is one way to write this adapter")

    def program(group: RankGroup) -> tuple[Readings, Readings | Refusal, dict[str, Readings | Refusal]]:
        base: Readings = {}

        def read(directory: Path, fused: bool) -> Readings | Refusal:
            nonlocal base
            model = server.load(chain.base, replace(settings, fused_experts=fused), group)
            base = model.read(None)
            model.serve_adapters()
            return attempt(lambda: model.add(1, directory)) or model.read(1)

        plain = read(chain.adapter, settings.fused_experts)
        return base, plain, {one.name: read(one.directory, one.fused_experts) for one in others}

    compared = 0
    for rank, (base, plain, rest) in enumerate(on_all(subject, case, program)):
        for name, other in rest.items():
            if isinstance(plain, Refusal) or isinstance(other, Refusal):
                refusal = other if isinstance(other, Refusal) else plain
                if isinstance(refusal, Refusal) and not refusal.named(chain):
                    raise Violation("raised", f"written {name}: {refusal}", case)
                continue
            compared += 1
            for module, parts in plain.items():
                for part, tensor in parts.items():
                    if not tensor.equal(other[module][part]):
                        lost = tensor.equal(base[module][part]) or other[module][part].equal(base[module][part])
                        raise Violation(
                            VANISHED if lost else "writing-matters",
                            f"{module} on rank {rank}, {part}: written {name} it is not what PEFT's own file gives",
                            case,
                        )
    if not compared:
        raise FileRefused("every other way of writing it is refused by name")


@check("MODEL-4", model_cases(saved=False))
def test_lora_switched_on_changes_nothing_by_itself(subject: Subject, case: ModelCase) -> None:
    server, chain = server_of(subject), chains().of(case)
    settings = settings_of(case, chain)

    def program(group: RankGroup) -> tuple[Readings, Readings, Readings]:
        bare = server.load(chain.base, replace(settings, lora=False, fused_experts=False), group).read(None)
        model = loaded(server, chain.base, settings, group)
        before = model.read(None)
        attempt(lambda: model.add(1, chain.adapter))
        model.remove(1)
        return bare, before, model.read(None)

    for rank, (bare, before, after) in enumerate(on_all(subject, case, program)):
        require_same(case, _comparable(bare), before, rank, "with LoRA switched on and no adapter")
        require_same(case, _comparable(bare), after, rank, "after an adapter was used and removed")


def _comparable(readings: Readings) -> Readings:
    """Without the experts' weights, which another kernel serves where LoRA is off, in a layout of its own."""
    return {
        name: {part: tensor for part, tensor in parts.items() if part not in EXPERTS}
        for name, parts in readings.items()
    }


@check("MODEL-5", model_cases(saved=False))
def test_loading_leaves_everything_else_as_it_was(subject: Subject, case: ModelCase) -> None:
    server, chain = server_of(subject), chains().of(case)
    settings = settings_of(case, chain)
    half = chain.root / "half"
    keys = [key for pair in chain.file.pairs[::2] for key in pair.keys]
    if not half.exists():
        cut(chain.adapter, half, set(keys))
    before = _fingerprint(chain)

    def program(group: RankGroup) -> list[Readings] | Refusal:
        model = loaded(server, chain.base, settings, group)
        refusal = attempt(lambda: model.add(1, chain.adapter))
        if refusal:
            return refusal
        read = [model.read(1)]
        attempt(lambda: model.add(2, half))
        read.append(model.read(1))
        model.remove(2)
        model.remove(1)
        model.add(1, chain.adapter)
        return [*read, model.read(1)]

    seen = on_all(subject, case, program)
    if _fingerprint(chain) != before:
        raise Violation("file-changed", "the adapter's directory is not what it was before it was loaded", case)
    for rank, read in enumerate(seen):
        if isinstance(read, Refusal):
            raise refused(read, chain) or unnamed(case, read)
        require_same(case, read[0], read[1], rank, "after another adapter was loaded")
        require_same(case, read[0], read[2], rank, "loaded again after it was removed")


def _fingerprint(chain: Chain) -> dict[str, str]:
    files = sorted(path for path in chain.adapter.iterdir() if path.is_file())
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@check("MODEL-6", model_cases(saved=False))
def test_a_class_that_declares_lora_support_starts_with_it(subject: Subject, case: ModelCase) -> None:
    server, chain = server_of(subject), chains().of(case)
    for options in ((), *((one,) for one in server.options(chain.base))):
        settings = settings_of(case, chain, options)

        def program(group: RankGroup, settings: ModelSettings = settings) -> Refusal | None:
            model = server.load(chain.base, settings, group)
            return attempt(model.serve_adapters) or attempt(model.warm_up)

        for refusal in on_all(subject, case, program):
            if refusal is not None and options and "rocessor" in refusal.message:
                raise NotExercised("the option asks for a processor, which checkpoints here have none of")
            if refusal is not None:
                said = " ".join(str(refusal).split())[:400]
                on = " and ".join(("LoRA", *options))
                raise Violation("does-not-start", f"with {on}: {said}", case)


@check("MODEL-7", model_cases(tp_sizes=(2, 4), saved=False))
def test_the_result_does_not_depend_on_the_ranks(subject: Subject, case: ModelCase) -> None:


    try:
        require_served(subject, replace(case, tp_size=1, fully_sharded=False))
    except Violation as found:
        raise NotExercised(f"wrong without what MODEL-7 is about already [{found.anomaly}]") from found
    for fully_sharded in (False, True):
        how = f"fully_sharded={fully_sharded}: "
        require_served(subject, replace(case, fully_sharded=fully_sharded), how)
