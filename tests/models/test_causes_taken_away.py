"""What Qwen4Exp does not serve of an adapter trained as embedding models are, it serves once the cause is taken away.

Its entries in the list of what is known name findings 75 and 48, whose scripts are about other classes.
"""

from __future__ import annotations

import importlib

import pytest

from conformance.certification.clause_tests import bodies_of
from conformance.judging.anomalies.models import VANISHED
from conformance.judging.verdicts import Violation
from conformance.subjects.models.observing import chains
from conformance.subjects.subject import Subject
from strategies.cases import Dtype
from strategies.models.adapters import ModelAdapter
from strategies.models.cases import ModelCase
from tests.models.planted import EXPERTS

pytestmark = pytest.mark.vllm
(BODY,) = bodies_of("MODEL-1")
OF_LAYERS = ("layers", "embed_tokens", "hyper_connection_mixer")


def case_of(*modules: str, parameters: tuple[str, ...] = ()) -> ModelCase:
    return ModelCase("Qwen4ExpModel", adapter=ModelAdapter(modules, parameters), dtype=Dtype.BFLOAT16)


@pytest.fixture
def told_the_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mapper that knows what transformers' class without a head calls the layers."""
    cls = importlib.import_module("vllm.models.qwen4_exp.nvidia.model").Qwen4ExpForConditionalGeneration
    names = {f"language_model.{part}": f"language_model.model.{part}" for part in OF_LAYERS}
    mapper = type(cls.hf_to_vllm_mapper)(orig_to_new_prefix={**names, **cls.hf_to_vllm_mapper.orig_to_new_prefix})
    monkeypatch.setattr(cls, "hf_to_vllm_mapper", mapper)


@pytest.mark.parametrize("case", [case_of("q_proj"), case_of("block_inject_weight"), case_of(parameters=EXPERTS)])
def test_layers_are_served_by_names_that_the_mapper_knows(
    subject: Subject, case: ModelCase, request: pytest.FixtureRequest
) -> None:
    with pytest.raises(Violation) as found:
        BODY(subject, case)
    assert found.value.anomaly == VANISHED
    chains.cache_clear()
    request.getfixturevalue("told_the_names")
    BODY(subject, case)


@pytest.mark.usefixtures("told_the_names")
@pytest.mark.parametrize("half", EXPERTS)
def test_of_two_projections_that_are_served_neither_is_alone(subject: Subject, half: str) -> None:
    with pytest.raises(Violation, match=r"loading .*: AssertionError: ") as found:
        BODY(subject, case_of(parameters=(half,)))
    assert getattr(found.value.fact, "site", "").startswith("vllm/lora/")
