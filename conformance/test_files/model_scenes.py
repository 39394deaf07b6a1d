"""What every test of a model does: its files are made and loaded, then comes what the clause is about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from conformance.judging.facts import Fact, Place
from conformance.subjects.models.keys import module_of
from conformance.test_files import model_chains
from conformance.test_files.literals import indented, one_line
from conformance.test_files.model_chains import CheckpointText, Engine
from conformance.test_files.script import Script
from strategies.models.adapters import ModelAdapter
from strategies.models.cases import ModelCase

BASE = '_, worker = served(f"{folder}/base")'  # of whose model nothing is looked at
COPIED = [  # ``tensors`` of the adapter, and a ``file`` of the same name in another directory
    'shutil.copytree(f"{folder}/adapter", f"{folder}/other")',
    'file = Path(f"{folder}/other/adapter_model.safetensors")',
    "tensors = load_file(file)",
]


@dataclass(frozen=True, slots=True)
class Told:
    """A failure of a model: the case, what was seen of it, and where.

    ``fused`` says that the adapter has the experts of a layer in one tensor; ``engine`` are further options of vLLM's;
    ``exact``, that the numbers are those of the case, and not any.
    """

    case: ModelCase
    anomaly: str
    fact: Fact
    place: Place
    config: CheckpointText
    fused: bool = False
    engine: Mapping[str, Any] = field(default_factory=dict)
    exact: bool = True

    @property
    def parts(self) -> Engine:
        """What the parts of a file are made of."""
        return Engine(self.case, self.config, self.fused, self.engine, self.exact)


def scripted(
    told: Told,
    lines: Sequence[str],
    *,
    verdict: Sequence[str] = (),
    returns: str = "",
    definitions: Sequence[str] = (),
    merged: bool = False,
    then: Sequence[str] = (),
) -> Script:
    """The test: checkpoint and adapter, and a ``merged`` checkpoint if asked, are made; ``lines`` load them.

    ``then`` is done once, with the adapter that was made; ``definitions``, of constants and functions, come before the
    others.
    """
    told = replace(told, config=told.config.read()) if merged else told
    defined = model_chains.definitions(told.parts, definitions)
    made = model_chains.made(told.parts, merged=merged, then=then)
    several = told.case.tp_size > 1
    return Script(
        lines=lines,
        once=made,
        verdict=verdict,
        returns=returns,
        definitions=defined,
        imports=model_chains.imports_of("\n".join([*defined, *made, *lines, *verdict]), told.config),
        ranks=told.case.tp_size,
        world=told.case.tp_size if several else 0,
        in_turn=several,
    )


def requested(told: Told, directory: str = "adapter") -> list[str]:
    """Statements after which `adding` fits a line."""
    given = f'"one", 1, f"{{folder}}/{directory}", is_3d_lora_weight=True'
    return [f"request = LoRARequest({given})"] if told.fused else []


def adding(told: Told, directory: str = "adapter") -> str:
    """Has the worker load and activate the adapter in a directory."""
    if told.fused:
        return "worker.add_adapter(request)"
    return f'worker.add_adapter(LoRARequest("one", 1, f"{{folder}}/{directory}"))'


def added_or_refused(told: Told, names: Sequence[str], directory: str = "adapter") -> list[str]:
    """The same, and the end of the test where the adapter is refused by an error that names one of ``names``."""
    each = one_line(tuple(names))
    test = f'"{names[0]}" not in str(error)' if len(names) == 1 else f"not any(one in str(error) for one in {each})"
    return [
        *requested(told, directory),
        "try:",
        *indented([adding(told, directory)]),
        "except (RuntimeError, ValueError) as error:",
        *indented([f"if {test}:", "    raise", "return  # refused by name"]),
    ]


def targets_of(adapter: ModelAdapter) -> list[str]:
    """The last parts of the names of what is adapted."""
    ends = (one.removesuffix(".weight") for one in (*adapter.modules, *adapter.parameters))
    return list(dict.fromkeys(one.rpartition(".")[2] for one in ends))


def last_name(key: str) -> str:
    """The last part of the name of a key's module."""
    return module_of(key).rpartition(".")[2]
