"""Regression files of modules that are no linear layer of any family, handed in alone (WRAP-6)."""

from __future__ import annotations

from conformance.regressions.entries import StoredFailure
from conformance.test_files.dialects import Dialect
from conformance.test_files.layout import whole_file
from conformance.test_files.literals import INDENT, call, indented
from strategies.cases import Case

_FOREIGN = '''
class Foreign(torch.nn.Module):
    """Has the attributes of a linear layer, and derives from none."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(2, 2), requires_grad=False)
        self.input_size = self.output_size = 2
'''.strip("\n")
# In the order of the clause's own.
_MODULES = (
    "Foreign()",
    "torch.nn.Linear(2, 2)",
    "torch.nn.Embedding(2, 2)",
    "torch.nn.LayerNorm(2)",
    "torch.nn.Identity()",
)


def write(failure: StoredFailure, case: Case, dialect: Dialect, told: str) -> str:
    """The file."""
    made = _MODULES[case.seed % len(_MODULES)]
    kind = made.partition("(")[0].rpartition(".")[2]
    sizes = [f"max_loras={case.max_loras}", f"max_lora_rank={case.max_rank}"]
    lines = [f"module: Any = {made}", "names = list(module.state_dict())"]
    if dialect.impl == "vllm":
        imports = {"from vllm.config.lora import LoRAConfig", "from vllm.lora.utils import from_layer"}
        lines.append(call("config = LoRAConfig", [*sizes, f"lora_dtype=torch.{case.dtype.of_tensors}"]))
        lines += [f"lora: Any = from_layer(module, {case.max_loras}, config, [], None)", "assert lora is module"]
    else:
        imports = {"from lora_compat import LoRAConfig, LoRAError, wrap_layer"}
        lines += [
            call("config = LoRAConfig", sizes),
            "try:",
            f"{INDENT}lora: Any = wrap_layer(module, config)",
            "except LoRAError as error:",
            f'{INDENT}assert "{kind}" in str(error)',
            "else:",
            f"{INDENT}assert lora is module",
        ]
    lines.append("assert list(module.state_dict()) == names")
    name = f"test_{failure.clause}_{failure.anomaly}".lower().replace("-", "_")
    test = "\n".join([f"def {name}() -> None:", *indented(lines)])
    return whole_file(told, imports, "\n\n\n".join([_FOREIGN, test] if kind == "Foreign" else [test]))
