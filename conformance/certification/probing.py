"""Before a class is certified it is built and run by itself, and what its constructor leaves open is read off."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from conformance.building import build_layer
from conformance.certification.recipes import OPTIONS, Recipe
from conformance.certification.subjects import Found, MissingRecipeError, SubjectError
from conformance.engines.ranks import CollectiveMismatch, RankFailed, RankGroup, RankHung
from conformance.oracle import expected_on, flatten
from conformance.subject import HarnessError, RankSession, Subject, SubjectRaised, SubjectRefused
from conformance.values import values_of
from lora_compat.families import Family
from strategies.cases import (
    AdapterSpec,
    Case,
    Constructor,
    Forward,
    Heads,
    LayerSpec,
    Loader,
    Quantization,
    Regime,
    SubclassSpec,
)
from strategies.existing import Target
from strategies.parallel import TP_SIZES

_OPTIONS_OF = {
    Family.REPLICATED: ("bias", "skip_bias_add", "return_bias"),
    Family.COLUMN: ("bias", "skip_bias_add", "return_bias", "gather_output", "disable_tp"),
    Family.MERGED_COLUMN: ("bias", "skip_bias_add", "return_bias", "gather_output", "disable_tp"),
    Family.QKV: ("bias", "skip_bias_add", "return_bias", "disable_tp"),
    Family.ROW: ("bias", "skip_bias_add", "return_bias", "input_is_parallel", "reduce_results", "disable_tp"),
}


class UnfitClassError(SubjectError):
    """A class that does not work by itself, without any LoRA."""

    title = "does not run by itself"
    is_usage = False

    def __init__(self, path: str, tp_size: int, problem: str) -> None:
        super().__init__(f"{path} does not run by itself at TP {tp_size}, before any LoRA: {problem}")


@dataclass(frozen=True, slots=True)
class Prober:
    """Probes one class on the layers of a subject."""

    found: Found
    subject: Subject

    def target(self) -> Target:
        """What `strategies` must know to draw cases of the class.

        Raises:
            SubjectError: it cannot be built, or does not run by itself.
        """
        self._build_or_explain(self.plain())
        fixed, free = {}, []
        for name in _OPTIONS_OF[self.found.family]:
            values = self._values_of(name)
            if len(values) == 1:
                fixed[name] = values.pop()
            else:
                free.append(name)
        case = self.plain(fixed=fixed)
        self._run_or_explain(case)
        if 2 in self.tp_sizes:
            self._run_or_explain(self.plain(tp_size=2, fixed=fixed))
        bounded = not self.subclass.changes_forward or self._scales_columns(case)
        return Target(
            subclass=self.subclass,
            family=self.found.family,
            fit=lambda layer, tp_size: fitted(layer, self.recipe, fixed),
            fixed=fixed,
            tp_sizes=self.tp_sizes,
            regimes=tuple(Regime) if bounded else (Regime.EXACT,),
            quantizations=(Quantization.NONE, *self._quantizations(case)),
        )

    @property
    def recipe(self) -> Recipe:
        return self.found.built_by

    @property
    def tp_sizes(self) -> tuple[int, ...]:
        return self.recipe.tp_sizes or TP_SIZES

    @property
    def subclass(self) -> SubclassSpec:
        """The class as cases name it."""
        cls, base = self.found.cls, self.found.base
        forward = Forward.INHERITED
        if cls.forward is not base.forward:
            forward = Forward.EXTRA_ARGUMENT if len(_required(cls)) == 2 else Forward.OWN
        loads = any(
            getattr(cls, name, None) is not getattr(base, name, None) for name in ("weight_loader", "weight_loader_v2")
        )
        return SubclassSpec(
            depth=1,
            constructor=Constructor.INHERITED if cls.__init__ is base.__init__ else Constructor.RENAMED,
            loader=Loader.PASS_THROUGH if loads else Loader.INHERITED,
            forward=forward,
            target=self.found.path,
            recipe=self.found.recipe,
        )

    def plain(self, *, tp_size: int = 1, fixed: dict[str, bool] | None = None, **options: bool) -> Case:
        """A small case of the class, without adapters in use."""
        family = self.found.family
        heads = Heads(size=2, query=2 * tp_size, key_value=2 * tp_size) if family is Family.QKV else None
        sizes: tuple[int, ...] = (4 * tp_size,)
        if family is Family.MERGED_COLUMN:
            sizes = (4 * tp_size, 2 * tp_size)
        layer = LayerSpec(family=family, input_size=4 * tp_size, output_sizes=heads.output_sizes if heads else sizes,
                          heads=heads, **options)  # fmt: skip
        layer = fitted(layer, self.recipe, fixed or {})
        return Case(
            layer=layer,
            subclass=self.subclass,
            tp_size=tp_size,
            adapters=(AdapterSpec(fused=len(layer.output_sizes) > 1),),
            tokens=(-1, -1, -1),
        )

    def _values_of(self, name: str) -> set[bool]:
        """The values that option ``name`` of the layer takes, whatever is asked for, and with which it runs."""
        built, run = set(), set()
        for asked in (False, True):
            case = self.plain(tp_size=1, **{name: asked})
            layer = self._try_build(case)
            if layer is None:
                continue
            value = _read(layer, name)
            built.add(value)
            try:
                self._run_or_explain(self.plain(tp_size=1, **{name: value}))
            except UnfitClassError:
                continue
            run.add(value)
        return run or built or {getattr(LayerSpec(), name)}

    def _quantizations(self, case: Case) -> tuple[Quantization, ...]:
        """The schemes that the constructor hands on, and that the forward runs with by itself."""
        plain = self._quant_method(case)
        found = []
        for scheme in Quantization:
            method = self._quant_method(replace(case, quantization=scheme))
            if method not in (plain, None):
                found.append(scheme)
        return tuple(found)

    def _quant_method(self, case: Case) -> type | None:
        """The kind of quant method that the layer runs with; None where it does not run."""

        def program(rank: RankSession) -> type:
            rank.build().run()
            return type(rank.base.quant_method)

        try:
            return self.subject.observe(case, program)[0]
        except (SubjectRaised, SubjectRefused, HarnessError, CollectiveMismatch):
            return None

    def _try_build(self, case: Case) -> nn.Module | None:
        try:
            return self._built(case)
        except (RankFailed, RankHung):
            return None

    def _built(self, case: Case) -> nn.Module:
        library = self.subject.implementation.layers

        def build(group: RankGroup) -> nn.Module:
            with library.ranked(group):
                return build_layer(case, library, torch.float32)

        return self.subject.engine.run(case.tp_size, build)[0]

    def _build_or_explain(self, case: Case) -> None:
        try:
            self._built(case)
        except RankFailed as failure:
            error = failure.error
            problem = f"it cannot be built: {type(error).__name__}: {error}"
            if self.found.recipe:
                raise UnfitClassError(self.found.path, case.tp_size, problem) from failure
            raise MissingRecipeError(self.found.path, self.found.cls, self.found.family, problem) from failure

    def _run_or_explain(self, case: Case) -> None:
        """Loads checkpoint weights through the class's own loader, and runs its forward on every rank.

        Raises:
            UnfitClassError: that fails, hangs, or the ranks issue different collectives.
        """
        tensors, library = values_of(case), self.subject.implementation.layers
        try:
            self.subject.engine.run(case.tp_size, lambda group: expected_on(case, tensors, library, group))
        except (RankFailed, RankHung, CollectiveMismatch) as error:
            problem = f"it deadlocks: {error}" if isinstance(error, RankHung) else str(error)
            raise UnfitClassError(self.found.path, case.tp_size, problem) from error

    def _scales_columns(self, case: Case) -> bool:
        """Whether the forward multiplies each column of its product by a constant, so that a bound carries over."""
        case = replace(case, layer=replace(case.layer, skip_bias_add=True), regime=Regime.ROUNDED)
        ratios = []
        for seed in (1, 2):
            tensors = values_of(replace(case, seed=seed))
            library = self.subject.implementation.layers
            run = self.subject.engine.run(1, lambda group: expected_on(case, tensors, library, group))[0]
            product = tensors.inputs[0] @ torch.cat(tensors.weights).t()
            output = flatten(list(run.values))[0]
            if output.shape != product.shape:
                return False
            ratios.append(output / product)
        both: Tensor = torch.cat(ratios)
        return bool(torch.allclose(both, both[:1].expand_as(both)))


def fitted(layer: LayerSpec, recipe: Recipe, fixed: dict[str, bool]) -> LayerSpec:
    """The drawn ``layer`` with the options that the class has anyway, and the checkpoint tensors its recipe says."""
    options = dict(fixed)
    if layer.family is Family.ROW and not options.get("reduce_results", layer.reduce_results):
        # A bias cannot be added to partial sums: the base class refuses it.
        skips = options.get("skip_bias_add", layer.skip_bias_add)
        if options.get("bias", layer.bias) and not skips:
            options["reduce_results" if "reduce_results" not in fixed else "bias"] = "reduce_results" not in fixed
    layer = replace(layer, **options)
    return layer if recipe.outputs is None else replace(layer, output_sizes=recipe.outputs(layer))


def _required(cls: type[nn.Module]) -> list[str]:
    parameters = list(inspect.signature(cls.forward).parameters.values())[1:]
    return [
        one.name
        for one in parameters
        if one.default is one.empty and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
    ]


def _read(layer: nn.Module, name: str) -> bool:
    if name == "bias":
        return getattr(layer, "bias", None) is not None
    default: bool = getattr(LayerSpec(), name)
    return bool(getattr(layer, name, default))


assert set(OPTIONS) == {name for names in _OPTIONS_OF.values() for name in names}
