"""Programs and questions about targets, each with what a planted bug of whole models was seen to do."""

from __future__ import annotations

from dataclasses import dataclass, replace

from conformance.regressions.entries import Entry
from lora_compat.families import Family
from strategies.cases import AdapterSpec, LayerSpec
from strategies.codec import Spec
from strategies.trees import ModelSpec, ModuleKind, ModuleSpec
from strategies.programs import Misfit, ModelAdapterSpec, Program, Step, StepKind
from strategies.target_questions import TargetQuestion
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
    message: str
    spec: Spec
    bug: str = ""

    @property
    def entry(self) -> Entry:
        """Its entry in the store."""
        return entry_of(self.clause, self.anomaly, self.spec, self.message)


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
        "call 5, activate(1), rank 0 raised AdapterShapeError, with a place free",
        Program(ModelSpec((COLUMN,), tp_size=2), steps((USE, 0), (LEAVE, 0), (USE, 0))),
        "slices-written-back",
    ),
    Seen(
        "LIFE-2",
        "wrong-eviction",
        "call 6, activate(3): registered [2, 3], active [3], but should be registered [2, 3], active [3]",
        Program(steps=steps((USE, 0), (USE, 1), (USE, 2)), adapters=adapters(NONE, NONE, NONE), max_adapters=2),
        "newest-leaves",
    ),
    Seen(
        "LIFE-2",
        "not-refused",
        "call 4, add(2), rank 0 succeeded, but should be refused",
        Program(steps=steps((USE, 0), (StepKind.PIN, 0), (USE, 1)), adapters=adapters(NONE, NONE)),
        "pins-forgotten",
    ),
    Seen(
        "LIFE-2",
        "unclear-refusal",
        "call 3, activate(2), rank 0 raised KeyError: 2, which says nothing",
        Program(steps=steps((USE, 0), (StepKind.ACTIVATE, 1)), adapters=adapters(NONE, NONE)),
    ),
    Seen(
        "LIFE-2",
        "wrong-answer",
        "call 3, add(1), rank 0 returned True, but should return False",
        Program(steps=steps((USE, 0), (StepKind.ADD, 0))),
    ),
    Seen(
        "LIFE-3",
        "state-lost",
        "call 2, activate_failing(1), rank 0 raised InjectedFault and left registered [1], active [1]",
        Program(steps=steps((StepKind.USE_FAILING, 0))),
        "failed-activation-stays-active",
    ),
    Seen(
        "LIFE-3",
        "fault-swallowed",
        "call 2, activate_failing(1), rank 0 succeeded, though a load failed in it",
        Program(steps=steps((StepKind.USE_FAILING, 0))),
    ),
    Seen(
        "LIFE-3",
        "not-refused",
        "call 2, activate(1), rank 0 activated an adapter that does not fit: Misfit.NARROW",
        Program(steps=steps((USE, 0)), adapters=adapters(Misfit.NARROW)),
    ),
    Seen(
        "LIFE-3",
        "unclear-refusal",
        "call 2, activate(1), rank 0 does not name the module: RuntimeError: The size of tensor a (16)",
        Program(steps=steps((USE, 0)), adapters=adapters(Misfit.RANK), max_rank=16),
    ),
    Seen(
        "LIFE-3",
        "delta-dropped",
        "call 5, run(0): rank 0: layers.0.mlp.gate: out0[0, 0]=-1, but should be -2; adapters [1] (0: none)",
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
        "call 3, run(0): rank 0: layers.1.mlp.gate: out0[0, 0]=-2, but should be 1; adapters [1] (0: none)",
        Program(TWO, steps((USE, 0)), OTHER_ALPHA, from_disk=True),
        "alpha-pattern-ignored",
    ),
    Seen(
        "LIFE-1",
        "unexplained",
        "call 3, run(0): rank 0: layers.0.mlp.gate: out0[0, 0]=-1, but should be -2",
        Program(steps=steps((USE, 0)), adapters=ROOTED, from_disk=True),
        "rslora-as-lora",
    ),
    Seen("WRAP-5", "wrapped-twice", "gate and shared.gate are two modules now", Program(ModelSpec((ALIASED,)))),
    Seen(
        "MATH-8",
        "delta-dropped",
        "call 3, run(0): rank 0: layers.0.mlp.gate_up_proj: out0[0, 0]=-1, but should be -2",
        Program(ModelSpec((PACKED,)), steps((USE, 0)), (ModelAdapterSpec((AdapterSpec(present=(True, True)),)),)),
    ),
    Seen(
        "RANK-5", "adapter-leak", "output 0 under a dummy adapter of rank 8: out0[0, 0]=2, but should be 1", Program()
    ),
    Seen("RANK-1", "rank-indivisible", "rank 8, but should be a multiple of 3", SHARDED, "layers-are-not-asked"),
    Seen("RANK-2", "rank-not-smallest", "rank 8, but should be 9", SHARDED, "layers-are-not-asked"),
    Seen(
        "RANK-3",
        "rank-not-default",
        "rank 9, but should be 8",
        replace(SHARDED, fully_sharded=False),
        "every-rank-cuts",
    ),
    Seen(
        "RANK-4", "rank-indivisible", "rank 8, but should be 6", replace(SHARDED, max_rank=8), "layers-are-not-asked"
    ),
    Seen(
        "LIFE-1",
        "refused-wrongly",
        "call 6, activate(1), rank 0 raised RuntimeError: All items are pinned, with a place free",
        Program(
            steps=steps((StepKind.ACTIVATE, 1), (USE, 1), (StepKind.PIN, 1), (USE, 0)),
            adapters=adapters(NONE, NONE),
            max_adapters=2,
        ),
    ),
    Seen(
        "LIFE-1",
        "raised",
        "rank 0 of 1: RuntimeError: no such thing",
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
        "rank 0 of 2: AttributeError: no attribute device",
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
