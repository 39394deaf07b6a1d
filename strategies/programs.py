"""The vocabulary of programs: what happens to a model's adapters, step by step, as one value."""

from __future__ import annotations

from dataclasses import dataclass, replace

from strategies.cases import AdapterSpec, Dtype
from strategies.codec import Named, Spec
from strategies.exactness import require_exact
from strategies.trees import ModelSpec


class StepKind(Named):
    """What a step does."""

    USE = "use"  # add, where it is not registered, and activate
    RUN = "run"  # map a batch's tokens to their adapters, and run every layer
    DEACTIVATE = "deactivate"
    ADD = "add"
    ACTIVATE = "activate"
    REMOVE = "remove"
    PIN = "pin"
    REPLACE = "replace"  # use, loading anew what is there already
    RERUN = "rerun"  # run every layer without mapping anew
    USE_FAILING = "use_failing"  # use, but the load of a layer in the middle raises


class Misfit(Named):
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

    After the last step the first batch is run. With ``from_disk`` adapters arrive as PEFT directories. All values are
    exact.

    Raises:
        ImpossibleCase: a scaling is no power of two.
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
    dtype: Dtype = Dtype.FLOAT32
    seed: int = 0

    def __post_init__(self) -> None:
        require_exact(part.scaling for adapter in self.adapters for part in adapter.parts if part is not None)

    def with_steps(self, *steps: Step) -> Program:
        """The same program with other steps."""
        return replace(self, steps=steps)
