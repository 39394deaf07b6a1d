"""Every planted bug of the reference, whatever it is of; those in vLLM are `tests.mutants.vllm_planted`."""

from __future__ import annotations

from tests.experts import planted as experts
from tests.manager.planted import MUTANTS as MODELS
from tests.mutants import MUTANTS as LAYERS
from tests.mutants.planting import Mutant, planted_in
from tests.quantization import planted as quantization
from tests.vocabulary import planted as vocabulary

PLANTED: tuple[Mutant, ...] = (
    *LAYERS,
    *(mutant for module in (quantization, vocabulary, experts) for mutant in planted_in(module)),
    *MODELS,
)
