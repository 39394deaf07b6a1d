"""Tests of modules that are none of the layers: chains of wrappers (UNWRAP-4), and strangers handed in (WRAP-6)."""

from __future__ import annotations

from inspect import getsource

from conformance.regressions.entries import StoredFailure
from conformance.subjects.linear import deployment_of
from conformance.subjects.trees import STRANGERS, Lookalike
from conformance.test_files.construction import nested_text, wrapper_sources
from conformance.test_files.dialects import Dialect
from conformance.test_files.layout import CannotWrite
from conformance.test_files.script import Script, raises
from strategies.cases import Case, WrapperKind


def chain(failure: StoredFailure, case: Case, dialect: Dialect) -> Script:
    """A search through wrappers in which there is no quant method to be found.

    Raises:
        CannotWrite: nothing could end the search in a file for this library.
    """
    loops = case.seed % 2 == 1  # as the clause has it
    lines = ["inner: Any = BareWrapper(torch.nn.Identity())", f"outer: Any = {nested_text(case.nesting, 'inner')}"]
    lines += ["inner.base_layer = outer"] if loops else []
    if dialect.impl == "vllm":
        if loops:
            raise CannotWrite("vLLM's own search through a chain that loops does not end, so neither would the test")
        lines += raises(dialect.dense_weight)
        lines.append("crashes = (AttributeError, AssertionError, RecursionError)")
        lines.append("assert not isinstance(caught.value, crashes)  # but an error that says so")
    else:
        lines += raises("quant_method_of(outer)", context="pytest.raises(LoRAError)")
    return Script(lines=lines, definitions=wrapper_sources({*case.nesting, WrapperKind.BARE}), world=0)


def stranger(failure: StoredFailure, case: Case, dialect: Dialect) -> Script:
    """A module that is no linear layer of any family, handed in alone."""
    made = STRANGERS[case.seed % len(STRANGERS)]
    kind = made.partition("(")[0].rpartition(".")[2]
    lines = [f"module: Any = {made}", "names = list(module.state_dict())"]
    lines.append(f"config = {dialect.config(deployment_of(case))}")
    if dialect.impl == "vllm":
        lines += [f"lora: Any = from_layer(module, {case.max_loras}, config, [], None)", "assert lora is module"]
    else:
        lines += [
            "try:",
            "    lora: Any = wrap_layer(module, config)",
            "except LoRAError as error:",
            f'    assert "{kind}" in str(error)',
            "else:",
            "    assert lora is module",
        ]
    lines.append("assert list(module.state_dict()) == names")
    return Script(lines=lines, definitions=[getsource(Lookalike).strip()] if kind == "Lookalike" else [], world=0)
