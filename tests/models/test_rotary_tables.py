"""vLLM's models share rotary tables: whoever writes into one is noticed, and no map is learned on them."""

from __future__ import annotations

import importlib
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from conformance.certification.clause_tests import bodies_of
from conformance.implementations.vllm.models.hosted import learned
from conformance.implementations.vllm.models.readings import Reader
from conformance.implementations.vllm.models.rotary_tables import SHARED, TableOverwritten, tables
from conformance.subjects.models.likeness import alike
from conformance.subjects.models.observing import chains
from conformance.subjects.outcomes import HarnessError
from conformance.subjects.subject import Subject
from strategies.models.adapters import ModelAdapter
from strategies.models.cases import ModelCase
from tests.models.planted import around

pytestmark = pytest.mark.vllm
CASE = ModelCase(target="llama", adapter=ModelAdapter(modules=("q_proj",)))


def shared() -> list[torch.Tensor]:
    module, _, name = SHARED.rpartition(".")
    return [rotary.cos_sin_cache for rotary in getattr(importlib.import_module(module), name).values()]


@pytest.fixture
def served(subject: Subject) -> Subject:
    (body,) = bodies_of("MODEL-2")
    body(subject, CASE)
    assert shared()
    return subject


def test_a_number_written_into_a_table_while_a_model_is_read_is_said_with_the_step(
    served: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(original: Any, *given: Any) -> Any:
        found = original(*given)
        shared()[-1][0, 0] = 0
        return found

    around(monkeypatch, Reader, "read", change)
    chains.cache_clear()  # what was read of its chain
    (body,) = bodies_of("MODEL-2")
    before = shared()[-1][0, 0].item()
    said = rf"reading: .*RotaryEmbedding.cos_sin_cache\[0, 0\] is 0 and was {before:g}, as 1 "
    with pytest.raises(HarnessError, match=said):
        body(served, CASE)
    assert shared()[-1][0, 0] == before, "it is put back, so that other cases are judged"


def test_one_written_between_two_steps_is_said_before_the_next(served: Subject) -> None:
    shared()[-1].fill_(7)
    with pytest.raises(TableOverwritten, match="before loading, since the last reading"), tables.unchanged("loading"):
        pass


def test_a_map_is_learned_on_tables_of_its_own(served: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    module, _, name = SHARED.rpartition(".")
    # InternS1-Pro's has no numbers before the first query: it is built of what `torch.empty` returns.
    without = SimpleNamespace(cos_sin_cache=torch.full((4, 2), torch.nan))
    monkeypatch.setitem(getattr(importlib.import_module(module), name), ("without numbers",), without)
    before = [table.clone() for table in shared()]
    learned(chains().of(CASE).base, getattr(torch, CASE.dtype.of_tensors), 1)
    assert all(map(alike, before, shared()))


def test_nothing_of_vllm_is_imported_to_look_at_tables_before_its_platform_is_chosen() -> None:
    look = (
        "import sys",
        f"from {tables.__module__} import tables",
        "with tables.unchanged('loading'): pass",
        "assert 'vllm' not in sys.modules",
    )
    subprocess.run([sys.executable, "-c", "\n".join(look)], check=True, timeout=60)
