"""Whether an adapter that a whole model serves on one rank is served on several, in each way of sharing it out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace

from conformance.engines.ranks import CollectiveMismatch
from conformance.implementations.models import ModelServer
from conformance.judging.facts import Disagreement, Place
from conformance.judging.models import raised, require_merged
from conformance.judging.served_models import on_all, presume_served, programs_of, require_right, require_served
from conformance.judging.verdicts import Violation
from conformance.subjects.models.checkpoints import content_of
from conformance.subjects.models.layer_lists import number_of_layers
from conformance.subjects.models.observing import Refusal, chains, server_of
from conformance.subjects.models.programs import Seen
from conformance.subjects.models.traits import has_towers, language_model
from conformance.subjects.outcomes import NotApplicable, NotExercised
from conformance.subjects.subject import Subject
from strategies.models.cases import ModelCase

ROLE_OF_STAGES = "layers dealt out to stages"
ROLE_OF_WAYS = "shared out to ranks"


def require_same_on_all_ranks(subject: Subject, case: ModelCase) -> None:
    """Raises where an adapter that is served on one rank is not on several."""
    __tracebackhide__ = True
    presume_served(subject, replace(case, tp_size=1, fully_sharded=False), "MODEL-7")
    whole_towers = server_of(subject).whole_towers
    if case.deployment.copies and case.options and whole_towers and has_towers(content_of(case)):
        other = replace(case, options=(*case.options, whole_towers), fully_sharded=not case.fully_sharded)
        _require_served_so(subject, other, replace(other, options=case.options), whole_towers)
    if programs_of(subject, case).chain.file.of_experts:
        for options in _ways(server_of(subject), case):
            _require_served_so(subject, of_whole_experts(case, options), case, " and ".join(options))
    for fully_sharded in (False, True):
        require_served(subject, replace(case, fully_sharded=fully_sharded), f"fully_sharded={fully_sharded}")
    if 1 < case.stages <= layers_dealt_out(case) and server_of(subject).pipelined:
        with suppress(NotApplicable):  # where the class is not served so
            _require_same_of_stages(subject, replace(case, tp_size=1, fully_sharded=False))


def _require_served_so(subject: Subject, case: ModelCase, without: ModelCase, how: str) -> None:
    """Raises where what one rank takes is served wrongly, or broken off by an accident that ``without`` has not.

    Not where the base is: it is not applicable then.
    """
    __tracebackhide__ = True
    place = Place(setting=how, role=ROLE_OF_WAYS)
    with suppress(NotApplicable):
        try:
            seen = on_all(subject, case, programs_of(subject, case).served)
        except CollectiveMismatch as error:
            raise Violation("collective-mismatch", Disagreement(*error.sites), case, place) from error
        accident = _accident(case, seen)
        if accident is None:
            require_right(case, chains().of(case), seen, how)
        elif _accident(without, on_all(subject, without, programs_of(subject, without).served)) is None:
            raise Violation("raised", raised(accident), case, place)


def _accident(case: ModelCase, seen: Sequence[Seen | Refusal]) -> Refusal | None:
    return next((one for one in seen if isinstance(one, Refusal) and not one.named(chains().of(case))), None)


def _require_same_of_stages(subject: Subject, case: ModelCase) -> None:
    """Raises where a stage of a pipeline does not take what the whole model does, or serves its layers wrongly."""
    __tracebackhide__ = True
    stages = [replace(case, stage=stage) for stage in range(case.stages)]
    for stage, seen in zip(stages, [_stage_served(subject, stage) for stage in stages], strict=True):
        how = f"stage {stage.stage} of {stage.stages}"
        if isinstance(seen, Refusal):
            raise Violation("raised", raised(seen), stage, Place(setting=how, role=ROLE_OF_STAGES))
        require_merged(stage, chains().of(case), [seen], how)


def layers_dealt_out(case: ModelCase) -> int:
    """How many layers there are to deal out: those of the language model, which no tower's are."""
    return number_of_layers(language_model(content_of(case))[1])


def _stage_served(subject: Subject, case: ModelCase) -> Seen | Refusal:
    try:
        return on_all(subject, case, programs_of(subject, case).served)[0]
    except NotExercised as error:  # it does not start with LoRA, as the whole model does
        return Refusal(type(error).__name__, str(error))


def _ways(server: ModelServer, case: ModelCase) -> Iterator[tuple[str, ...]]:
    """Options that give each rank some experts whole: neighbours, one in turn where they are in groups, and twice."""
    if server.expert_parallel:
        yield (server.expert_parallel,)
        if server.in_turn and case.config.groups > 1:
            yield server.expert_parallel, server.in_turn
        if server.copied_experts and case.deployment.copies:
            yield server.expert_parallel, f"{server.copied_experts}={case.config.experts}"


def of_whole_experts(case: ModelCase, options: tuple[str, ...]) -> ModelCase:
    """Where each rank has some of the experts, whole, in the place of a part of each; some have more, if they can."""
    ranks = 4 if case.config.experts % 4 else case.tp_size
    return replace(case, tp_size=ranks, fully_sharded=False, options=tuple(dict.fromkeys((*case.options, *options))))
