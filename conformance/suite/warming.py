"""What a GPU run does before its first clause: compiles the kernels the drawn cases will launch."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

from conformance.subjects.building import flatten
from conformance.subjects.outcomes import NotWrapped, SubjectRefused
from conformance.subjects.subject import Subject
from lora_compat.families import Family
from strategies.cases import DTYPES, AdapterSpec, Case, LayerSpec

_LAYERS = (
    LayerSpec(family=Family.REPLICATED, input_size=7, output_sizes=(3,)),
    LayerSpec(family=Family.MERGED_COLUMN, input_size=4, output_sizes=(4, 2)),
)


def warm_up(subject: Subject) -> int:
    """Runs plain cases of every dtype and size of rank once; returns how many were served.

    A first launch compiles for seconds, which would otherwise count as the first clause's time. Layers that the
    implementation does not serve are passed over: the clauses will say so.
    """
    served = 0
    for layer, dtype, rank, tokens in product(_LAYERS, DTYPES, (1, 16, 64), ((0,), (0, -1, 1, 0, 0))):
        packed = (1,) * len(layer.output_sizes) if len(layer.output_sizes) > 1 else ()
        present = (True,) * max(1, len(packed))
        adapters = tuple(AdapterSpec(slot=slot, rank=rank, alpha=float(rank), present=present) for slot in (0, 1))
        case = Case(
            layer=layer, packed=packed, adapters=adapters, max_loras=2, max_rank=64, tokens=tokens, dtype=dtype
        )
        case = replace(case, device=subject.device)
        if subject.implementation.unsupported(case) is not None:
            continue
        try:
            subject.observe(case, lambda rank: flatten(rank.build().wrap().load().run()))
        except (NotWrapped, SubjectRefused):
            continue
        served += 1
    return served
