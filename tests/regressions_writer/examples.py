"""Cases of many forms, with entries of the store for them."""

from __future__ import annotations

from dataclasses import replace

from conformance.judging.facts import Aspect, Difference, Place, Sighting
from conformance.regressions.entries import Entry, StoredFailure
from lora_compat.families import Family
from strategies.cases import AdapterSpec, Case, Dtype, Heads, LayerSpec, Layout, Quantization, Regime, WrapperKind
from strategies.codec import Spec, to_dict
from strategies.experts import ExpertsAdapterSpec, ExpertsCase
from strategies.forwards import Forward
from strategies.ranks import RankQuestion
from strategies.subclasses import Constructor, Mixins, SubclassSpec
from strategies.vocabulary import VocabularyCase, VocabularyLayer

MERGED = LayerSpec(family=Family.MERGED_COLUMN, output_sizes=(2, 2), bias=True)
WHOLE = (AdapterSpec(present=(True, True)),)
TWO_COLUMNS = LayerSpec(input_size=2)
QKV = LayerSpec(family=Family.QKV, output_sizes=(2, 1, 1), heads=Heads(query=2))
DUMMIES = Case(
    layer=replace(MERGED, bias=False), tp_size=2, fully_sharded=True, max_rank=32, packed=(1, 1), adapters=WHOLE
)
LM_HEAD = VocabularyLayer.LM_HEAD
NO_TOKENS = VocabularyCase(LM_HEAD, original=2, tokens=(), ids=())
SCALED_IDS = VocabularyCase(original=2, width=2, multiplier=2, ids=(1,), seed=1)
SCALED_LOGITS = VocabularyCase(LM_HEAD, original=2, width=2, multiplier=2, seed=2)
WHOLE_EXPERTS = ExpertsCase(
    experts=2, tp_size=2, expert_parallel=True, adapters=(ExpertsAdapterSpec(experts=(True, False)),)
)
SHARDED_EXPERTS = replace(WHOLE_EXPERTS, fully_sharded=True, max_rank=3)
REUSED_EXPERTS = ExpertsCase(
    experts=2, adapters=(ExpertsAdapterSpec(experts=(True, False)),), routing=((1,),), reused=True
)
CUT_EXPERTS = ExpertsCase(intermediate_size=2, tp_size=2, fully_sharded=True, max_rank=3, seed=8)
FUSED_EXPERTS = ExpertsCase(
    experts=2,
    intermediate_size=2,
    adapters=(ExpertsAdapterSpec(experts=(True, True), fused=True, parts=(True, True, False)),),
    tokens=(0, -1),
    routing=((0, 1), (1, 0)),
)
IN_THREE_D = Case(tokens=(0, 0), layout=Layout.THREE_D)
BACKWARDS = Case(
    subclass=SubclassSpec(depth=1, forward=Forward.EXTRA_ARGUMENT),
    max_loras=2,
    adapters=(AdapterSpec(), AdapterSpec(slot=1)),
    tokens=(0, 1),
)
CASES: tuple[tuple[str, str, Spec], ...] = (
    ("MATH-1", "delta-dropped", Case()),
    ("MATH-1", "delta-dropped", Case(layer=LayerSpec(input_size=48))),
    ("MATH-1", "delta-dropped", Case(subclass=SubclassSpec(depth=2, forward=Forward.EXTRA_ARGUMENT))),
    (
        "MATH-1",
        "delta-dropped",
        Case(subclass=SubclassSpec(depth=1, mixins=Mixins.DIAMOND, constructor=Constructor.HARD_CODED)),
    ),
    ("MATH-1", "unexplained", Case(layer=LayerSpec(family=Family.ROW, input_size=2, reduce_results=False), tp_size=2)),
    ("MATH-2", "order-dependent", Case(adapters=(AdapterSpec(), AdapterSpec(slot=1)), max_loras=2, tokens=(0, 1))),
    ("MATH-3", "adapter-leak", Case(tokens=(-1, 0))),
    ("MATH-5", "stale-slot", Case(max_rank=8)),
    ("MATH-6", "tp-dependent", Case(layer=LayerSpec(family=Family.ROW, input_size=2), tp_size=2, fully_sharded=True)),
    ("MATH-7", "layout-refused", Case(tokens=(0, 0), layout=Layout.THREE_D)),
    ("MATH-7", "raised", Case(tokens=())),
    (
        "MATH-8",
        "slices-swapped",
        Case(layer=MERGED, tp_size=2, packed=(1, 1), adapters=(AdapterSpec(present=(False, True)),)),
    ),
    (
        "MATH-8",
        "slices-swapped",
        Case(layer=QKV, packed=(1, 1, 1), adapters=(AdapterSpec(present=(True, False, True)),)),
    ),
    ("MATH-9", "bias-dropped", Case(layer=LayerSpec(bias=True, skip_bias_add=True))),
    ("MATH-10", "delta-imprecise", Case(dtype=Dtype.BFLOAT16, regime=Regime.ROUNDED)),
    ("MATH-12", "scale-dropped", Case(adapters=(AdapterSpec(alpha=4.0),))),
    ("MATH-13", "not-repeatable", Case()),
    ("WRAP-1", "not-wrapped", Case(subclass=SubclassSpec(depth=1, dynamic=True))),
    ("WRAP-3", "order-dependent", Case()),
    ("WRAP-4", "hidden-attribute", Case()),
    ("WRAP-4", "base-changed", Case(subclass=SubclassSpec(depth=1, forward=Forward.SPLIT))),
    ("WRAP-5", "wrapped-twice", Case()),
    ("WRAP-7", "weight-stolen", Case(layer=LayerSpec(return_bias=False))),
    ("UNWRAP-2", "hidden-attribute", Case(nesting=(WrapperKind.FORWARDING, WrapperKind.NONE))),
    ("WRAP-6", "unclear-refusal", Case()),
    ("WRAP-6", "base-changed", Case(seed=1, max_loras=2)),
    ("WRAP-8", "weight-stolen", Case(layer=TWO_COLUMNS, quantization=Quantization.INT8, seed=1)),
    ("WRAP-8", "weight-stolen", Case(layer=TWO_COLUMNS, quantization=Quantization.INT4_PACKED)),
    ("WRAP-8", "unexplained", Case(quantization=Quantization.FP8_CHANNEL, seed=1)),
    (
        "WRAP-8",
        "weight-stolen",
        Case(
            layer=LayerSpec(family=Family.ROW, input_size=4, input_is_parallel=False),
            tp_size=2,
            quantization=Quantization.INT8,
        ),
    ),
    ("MATH-11", "delta-dropped", Case(layer=TWO_COLUMNS, quantization=Quantization.INT4_QWEIGHT)),
    ("RANK-5", "adapter-leak", Case(max_rank=32)),
    ("RANK-5", "raised", DUMMIES),
    ("MATH-14", "unexplained", SCALED_IDS),
    ("MATH-14", "input-written", VocabularyCase(original=5, tp_size=2, ids=(4,))),
    ("MATH-14", "base-changed", VocabularyCase(two_dimensions=True, dtype=Dtype.BFLOAT16)),
    ("MATH-14", "stale-slot", VocabularyCase(reused=True)),
    ("MATH-14", "base-forward-bypassed", VocabularyCase(tokens=(), ids=())),
    ("MATH-15", "raised", NO_TOKENS),
    ("MATH-16", "raised", ExpertsCase(tokens=(), routing=())),
    ("MATH-15", "unexplained", SCALED_LOGITS),
    ("MATH-15", "stale-slot", replace(SCALED_LOGITS, reused=True)),
    ("MATH-15", "base-changed", replace(SCALED_LOGITS, bias=True)),
    ("MATH-15", "adapter-leak", VocabularyCase(LM_HEAD, original=5, tp_size=2, tokens=(-1, 0), ids=(0, 0))),
    ("MATH-16", "unexplained", ExpertsCase(seed=3)),
    ("MATH-16", "unexplained", FUSED_EXPERTS),
    ("MATH-16", "base-changed", WHOLE_EXPERTS),
    ("MATH-16", "unexplained", WHOLE_EXPERTS),
    ("MATH-16", "stale-slot", REUSED_EXPERTS),
    ("MATH-16", "raised", CUT_EXPERTS),
    ("RANK-6", "rank-indivisible", CUT_EXPERTS),
    ("RANK-6", "adapter-leak", ExpertsCase()),
    ("UNWRAP-4", "unclear-refusal", Case()),
    ("UNWRAP-4", "unclear-refusal", Case(nesting=(WrapperKind.NONE, WrapperKind.FORWARDING))),
    ("COMM-1", "collective-mismatch", Case(layer=LayerSpec(family=Family.ROW, input_size=2), tp_size=2)),
    ("COMM-2", "collective-mismatch", Case(layer=LayerSpec(family=Family.COLUMN, disable_tp=True), tp_size=2)),
    ("RANK-2", "rank-not-smallest", RankQuestion(shards=(2, 3), max_lora_rank=128)),
    ("RANK-4", "unclear-refusal", RankQuestion(shards=(32,))),
    ("MATH-2", "order-dependent", BACKWARDS),
    ("MATH-7", "input-written", IN_THREE_D),
)


def forms_of(impl: str) -> list[tuple[str, str, Spec]]:
    """The examples with a file for ``impl``: vLLM has none of this project's quantization or experts."""
    plain = [one for one in CASES if getattr(one[2], "quantization", Quantization.NONE) is Quantization.NONE]
    plain = [one for one in plain if not isinstance(one[2], ExpertsCase)]
    return plain if impl == "vllm" else list(CASES)


WRONG_NUMBER = Sighting(Difference(Aspect.VALUE, 2.0, 1.0, 0, (0, 0)), Place(rank=0))


def entry_of(clause: str, anomaly: str, case: Spec, seen: Sighting = WRONG_NUMBER) -> Entry:
    """The entry of a failure found on the reference."""
    kind = "case" if isinstance(case, Case) else type(case).__name__
    identity = {"implementation": "reference (lora_compat 0.1.0)", "torch": "2.14"}
    failure = StoredFailure(
        clause, anomaly, str(seen), "reference", identity, ("dtype", "bias"), anomaly, seen=seen.to_dict()
    )
    return Entry({"kind": kind, **to_dict(case)}, repr(case), (failure,))
