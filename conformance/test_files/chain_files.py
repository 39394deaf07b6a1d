"""Regression files of chains of wrappers in which there is no quant method to be found (UNWRAP-4)."""

from __future__ import annotations

from conformance.regressions.entries import StoredFailure
from conformance.test_files.construction import nested_text, wrapper_sources
from conformance.test_files.dialects import CannotWrite, Dialect
from conformance.test_files.layout import whole_file
from conformance.test_files.literals import INDENT, indented
from strategies.cases import Case, WrapperKind

_QUANT_UTILS = "vllm.model_executor.layers.quantization.utils.quant_utils"


def write(failure: StoredFailure, case: Case, dialect: Dialect, told: str) -> str:
    """The file.

    Raises:
        CannotWrite: nothing could end the search in a file for this library.
    """
    loops = case.seed % 2 == 1  # as the clause has it
    is_vllm = dialect.impl == "vllm"
    if loops and is_vllm:
        raise CannotWrite("vLLM's own search through a chain that loops does not end, so neither would the test")
    lines = ["inner: Any = BareWrapper(torch.nn.Identity())", f"outer: Any = {nested_text(case.nesting, 'inner')}"]
    lines += ["inner.base_layer = outer"] if loops else []
    if is_vllm:
        imports = {f"from {_QUANT_UTILS} import get_and_maybe_dequant_weights"}
        lines += [
            "with pytest.raises(Exception) as caught:",
            f"{INDENT}get_and_maybe_dequant_weights(outer, torch.float32)",
            "crashes = (AttributeError, AssertionError, RecursionError)",
            "assert not isinstance(caught.value, crashes)  # but an error that says so",
        ]
    else:
        imports = {"from lora_compat import LoRAError, quant_method_of"}
        lines += ["with pytest.raises(LoRAError):", f"{INDENT}quant_method_of(outer)"]
    name = f"test_{failure.clause}_{failure.anomaly}".lower().replace("-", "_")
    test = "\n".join([f"def {name}() -> None:", *indented(lines)])
    classes = wrapper_sources({*case.nesting, WrapperKind.BARE})
    return whole_file(told, imports, "\n\n\n".join([*classes, test]))
