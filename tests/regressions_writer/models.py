"""Programs and questions about targets, each with what a planted bug of whole models was seen to do."""

from __future__ import annotations

from dataclasses import dataclass, replace

from conformance.judging.facts import Aspect, Difference, Place, Raised, Remark, Sighting
from conformance.regressions.entries import Entry
from lora_compat.families import Family
from strategies.cases import AdapterSpec, LayerSpec
from strategies.codec import Spec
from strategies.programs import Misfit, ModelAdapterSpec, Program, Step, StepKind
from strategies.target_questions import TargetQuestion
from strategies.trees import ModelSpec, ModuleKind, ModuleSpec
from tests.regressions_writer.examples import entry_of

USE, LEAVE = StepKind.USE, StepKind.DEACTIVATE
ALIASED = ModuleSpec(alias="layers.0.mlp.shared.gate")
TWO = ModelSpec(modules=(ModuleSpec(), ModuleSpec(name="layers.1.mlp.gate")))
SKIPPING = ModuleSpec(name="layers.1.mlp.gate", layer=LayerSpec(output_sizes=(2,), bias=True, skip_bias_add=True))
COLUMN = ModuleSpec("layers.0.mlp.fc1", layer=LayerSpec(family=Family.COLUMN, input_size=2, output_sizes=(2,)))
PACKED = ModuleSpec(
    name="layers.0.mlp.gate_up_proj",
    layer=LayerSpec(family=Family.MERGED_COLUMN, output_sizes=(1, 1)),
    packed=(1, 1),
    children=("gate_proj", "up_proj"),
)


@dataclass(frozen=True, slots=True)
class Seen:
    """A failure of a whole model; ``bug`` is the planted one that shows it, where there is one."""

    clause: str
    anomaly: str
    seen: Sighting | str  # a string is a remark
    spec: Spec
    bug: str = ""

    @property
    def entry(self) -> Entry:
        """Its entry in the store."""
        seen = Sighting(Remark(self.seen)) if isinstance(self.seen, str) else self.seen
        return entry_of(self.clause, self.anomaly, self.spec, seen)


def in_layer(number: int | None, name: str, actual: float, expected: float) -> Sighting:
    """A wrong number of a layer in the first batch, run by call ``number`` of the program."""
    place = Place(None if number is None else (number, "run", 0), 0, module=name)
    return Sighting(Difference(Aspect.VALUE, actual, expected, 0, (0, 0)), place)


def of_rank(actual: int, expected: object) -> Sighting:
    """A wrong warm-up rank."""
    return Sighting(Difference(Aspect.RANK, actual, expected))


def steps(*given: tuple[StepKind, int]) -> tuple[Step, ...]:
    return tuple(Step(kind, adapter) for kind, adapter in given)


def adapters(*misfits: Misfit) -> tuple[ModelAdapterSpec, ...]:
    return tuple(ModelAdapterSpec(misfit=misfit) for misfit in misfits)


NONE = Misfit.NONE
THREE = replace(COLUMN, layer=LayerSpec(family=Family.COLUMN, output_sizes=(3,)))
SHARDED = Program(ModelSpec((THREE,), tp_size=3), fully_sharded=True, max_rank=16)
OTHER_ALPHA = (ModelAdapterSpec((AdapterSpec(), AdapterSpec(alpha=4.0))),)
ROOTED = (ModelAdapterSpec((AdapterSpec(rank=4, alpha=2.0, rslora=True),)),)
SEEN = (
    Seen(
        "LIFE-1",
        "refused-wrongly",
        Sighting(Raised("AdapterShapeError", "", but=", with a place free"), Place((5, "activate", 1), 0)),
        Program(ModelSpec((COLUMN,), tp_size=2), steps((USE, 0), (LEAVE, 0), (USE, 0))),
        "slices-written-back",
    ),
    Seen(
        "LIFE-2",
        "wrong-eviction",
        Sighting(Difference(Aspect.STATE, ((2, 3), (3,)), ((2, 3), (3,))), Place((6, "activate", 3))),
        Program(steps=steps((USE, 0), (USE, 1), (USE, 2)), adapters=adapters(NONE, NONE, NONE), max_adapters=2),
        "newest-leaves",
    ),
    Seen(
        "LIFE-2",
        "not-refused",
        Sighting(Remark("succeeded, but should be refused"), Place((4, "add", 2), 0)),
        Program(steps=steps((USE, 0), (StepKind.PIN, 0), (USE, 1)), adapters=adapters(NONE, NONE)),
        "pins-forgotten",
    ),
    Seen(
        "LIFE-2",
        "unclear-refusal",
        Sighting(Raised("KeyError", "2", but=", which says nothing"), Place((3, "activate", 2), 0)),
        Program(steps=steps((USE, 0), (StepKind.ACTIVATE, 1)), adapters=adapters(NONE, NONE)),
    ),
    Seen(
        "LIFE-2",
        "wrong-answer",
        Sighting(Difference(Aspect.RESULT, True, False), Place((3, "add", 1), 0)),
        Program(steps=steps((USE, 0), (StepKind.ADD, 0))),
    ),
    Seen(
        "LIFE-3",
        "state-lost",
        Sighting(Difference(Aspect.STATE, ((1,), (1,)), ((1,), ())), Place((2, "activate_failing", 1), 0)),
        Program(steps=steps((StepKind.USE_FAILING, 0))),
        "failed-activation-stays-active",
    ),
    Seen(
        "LIFE-3",
        "fault-swallowed",
        Sighting(Remark("succeeded, though a load failed in it"), Place((2, "activate_failing", 1), 0)),
        Program(steps=steps((StepKind.USE_FAILING, 0))),
    ),
    Seen(
        "LIFE-3",
        "not-refused",
        Sighting(Remark("activated an adapter that does not fit"), Place((2, "activate", 1), 0)),
        Program(steps=steps((USE, 0)), adapters=adapters(Misfit.NARROW)),
    ),
    Seen(
        "LIFE-3",
        "unclear-refusal",
        Sighting(Raised("RuntimeError", "The size of tensor a (16)"), Place((2, "activate", 1), 0)),
        Program(steps=steps((USE, 0)), adapters=adapters(Misfit.RANK), max_rank=16),
    ),
    Seen(
        "LIFE-3",
        "delta-dropped",
        in_layer(5, "layers.0.mlp.gate", -1.0, -2.0),
        Program(
            TWO,
            steps((USE, 0), (StepKind.USE_FAILING, 1)),
            (ModelAdapterSpec((AdapterSpec(), None)), ModelAdapterSpec((None, AdapterSpec()))),
            max_adapters=2,
        ),
        "failed-load-is-not-undone",
    ),
    Seen(
        "LIFE-1",
        "scale-dropped",
        in_layer(3, "layers.1.mlp.gate", -2.0, 1.0),
        Program(TWO, steps((USE, 0)), OTHER_ALPHA, from_disk=True),
        "alpha-pattern-ignored",
    ),
    Seen(
        "LIFE-1",
        "unexplained",
        in_layer(3, "layers.0.mlp.gate", -1.0, -2.0),
        Program(steps=steps((USE, 0)), adapters=ROOTED, from_disk=True),
        "rslora-as-lora",
    ),
    Seen("WRAP-5", "wrapped-twice", "gate and shared.gate are two modules now", Program(ModelSpec((ALIASED,)))),
    Seen(
        "MATH-8",
        "delta-dropped",
        in_layer(3, "layers.0.mlp.gate_up_proj", -1.0, -2.0),
        Program(ModelSpec((PACKED,)), steps((USE, 0)), (ModelAdapterSpec((AdapterSpec(present=(True, True)),)),)),
    ),
    Seen("RANK-5", "adapter-leak", in_layer(None, Program().model.linears[0].name, 2.0, 1.0), Program()),
    Seen("RANK-1", "rank-indivisible", of_rank(8, "a multiple of 3"), SHARDED, "layers-are-not-asked"),
    Seen("RANK-2", "rank-not-smallest", of_rank(8, 9), SHARDED, "layers-are-not-asked"),
    Seen(
        "RANK-3",
        "rank-not-default",
        of_rank(9, 8),
        replace(SHARDED, fully_sharded=False),
        "every-rank-cuts",
    ),
    Seen("RANK-4", "rank-indivisible", of_rank(8, 6), replace(SHARDED, max_rank=8), "layers-are-not-asked"),
    Seen(
        "LIFE-1",
        "refused-wrongly",
        Sighting(
            Raised("RuntimeError", "All items are pinned", but=", with a place free"), Place((6, "activate", 1), 0)
        ),
        Program(
            steps=steps((StepKind.ACTIVATE, 1), (USE, 1), (StepKind.PIN, 1), (USE, 0)),
            adapters=adapters(NONE, NONE),
            max_adapters=2,
        ),
    ),
    Seen(
        "LIFE-1",
        "raised",
        Sighting(Raised("RuntimeError", "no such thing"), Place(rank=0, ranks=1)),
        Program(
            ModelSpec((ModuleSpec(), SKIPPING)),
            steps((USE, 0)),
            (ModelAdapterSpec((AdapterSpec(), AdapterSpec())),),
        ),
    ),
    Seen(
        "TARGET-1",
        "not-wrapped",
        "layers.0.mlp.gate_up_proj left unwrapped",
        TargetQuestion(ModelSpec((PACKED,)), ("up_proj",)),
        "parent-unknown-by-child",
    ),
    Seen(
        "TARGET-1",
        "refused-wrongly",
        "raised TargetModuleError, but should wrap ['layers.0.mlp.gate']",
        TargetQuestion(ModelSpec((ModuleSpec(), ModuleSpec("side.gate", ModuleKind.HOLDER))), ("gate",)),
        "holders-are-layers",
    ),
    Seen("TARGET-2", "wrapped-unasked", "wrapped, but not targeted", TargetQuestion(targets=()), "no-targets-are-all"),
    Seen("TARGET-2", "not-wrapped", "left unwrapped", TargetQuestion(), "none-given-is-none-wanted"),
    Seen(
        "WRAP-6",
        "unclear-refusal",
        "does not name layers.0.hollow",
        TargetQuestion(ModelSpec((ModuleSpec(), ModuleSpec("layers.0.hollow", ModuleKind.HOLLOW))), ("hollow",)),
    ),
    Seen(
        "WRAP-6",
        "raised",
        Sighting(Raised("AttributeError", "no attribute device"), Place(rank=0, ranks=2)),
        TargetQuestion(
            ModelSpec(
                (
                    ModuleSpec(),
                    ModuleSpec("layers.0.hollow", ModuleKind.HOLLOW),
                    ModuleSpec("vision.proj", ModuleKind.LOOKALIKE),
                ),
                tp_size=2,
            )
        ),
    ),
)
