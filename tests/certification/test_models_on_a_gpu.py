"""Which dtypes models are drawn in: those that the implementation takes on its device."""

from __future__ import annotations

import pytest
import torch

from conformance.implementations.vllm import cuda
from conformance.implementations.vllm.models.stand_ins import looked_up
from strategies.cases import Dtype


@pytest.mark.vllm
def test_on_cuda_models_are_drawn_in_what_tritons_lora_ops_take() -> None:
    from conformance.certification.models import draws_of  # which takes transformers and PEFT
    from conformance.subjects.models.types import resolve

    assert set(draws_of("llama", resolve("llama"), cuda.DTYPES).dtypes) == {Dtype.BFLOAT16}
    assert set(draws_of("llama", resolve("llama")).dtypes) == {Dtype.FLOAT32, Dtype.BFLOAT16}


def test_a_rank_looks_up_its_own_ids_and_leaves_the_others_zero() -> None:
    weight = torch.arange(1.0, 6.0).reshape(5, 1)  # ids 4 to 6, one row of padding, added id 12
    found = looked_up(torch.tensor([3, 4, 6, 7, 12, 13]), weight, 4, 7, 1, 12, 13)
    assert found.flatten().tolist() == [0, 1, 3, 0, 5, 0]
