"""Before a class is certified it is built and run by itself, and what its constructor leaves open is read off."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from conformance.certification.errors import MissingRecipeError, UnfitClassError
from conformance.certification.plain_cases import fitted, plain_case, subclass_of
from conformance.certification.subjects import Found
from conformance.engines.ranks import CollectiveMismatch, RankFailed, RankGroup, RankHung
from conformance.oracles.linear import expected_on
from conformance.subjects.building import build_layer, flatten
from conformance.subjects.linear import RankSession
from conformance.subjects.outcomes import HarnessError, SubjectRaised, SubjectRefused
from conformance.subjects.recipes import OPTIONS, Recipe
from conformance.subjects.subject import Subject
from conformance.values.linear import values_of
from lora_compat.families import Family
from strategies.cases import Case, LayerSpec, Quantization, Regime
from strategies.existing import Target
from strategies.parallel import TP_SIZES

_OPTIONS_OF = {
    Family.REPLICATED: ("bias", "skip_bias_add", "return_bias"),
    Family.COLUMN: ("bias", "skip_bias_add", "return_bias", "gather_output", "disable_tp"),
    Family.MERGED_COLUMN: ("bias", "skip_bias_add", "return_bias", "gather_output", "disable_tp"),
    Family.QKV: ("bias", "skip_bias_add", "return_bias", "disable_tp"),
    Family.ROW: ("bias", "skip_bias_add", "return_bias", "input_is_parallel", "reduce_results", "disable_tp"),
}


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
        self._build_or_explain(plain_case(self.found))
        fixed, free = {}, []
        for name in _OPTIONS_OF[self.found.family]:
            values = self._values_of(name)
            if len(values) == 1:
                fixed[name] = values.pop()
            else:
                free.append(name)
        case = plain_case(self.found, fixed=fixed)
        self._run_or_explain(case)
        if 2 in self.tp_sizes:
            self._run_or_explain(plain_case(self.found, tp_size=2, fixed=fixed))
        bounded = not subclass_of(self.found).changes_forward or self._scales_columns(case)
        return Target(
            subclass=subclass_of(self.found),
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

    def _values_of(self, name: str) -> set[bool]:
        """The values that option ``name`` of the layer takes, whatever is asked for, and with which it runs."""
        built, run = set(), set()
        for asked in (False, True):
            case = plain_case(self.found, options={name: asked})
            layer = self._try_build(case)
            if layer is None:
                continue
            value = _read(layer, name)
            built.add(value)
            try:
                self._run_or_explain(plain_case(self.found, options={name: value}))
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


def _read(layer: nn.Module, name: str) -> bool:
    if name == "bias":
        return getattr(layer, "bias", None) is not None
    default: bool = getattr(LayerSpec(), name)
    return bool(getattr(layer, name, default))


assert set(OPTIONS) == {name for names in _OPTIONS_OF.values() for name in names}
