"""Tests of mixtures of experts (MATH-16, RANK-6)."""

from __future__ import annotations

from conformance.implementations.protocol import Deployment
from conformance.oracles.experts import dense
from conformance.regressions.entries import StoredFailure
from conformance.test_files.dialects import Dialect
from conformance.test_files.layout import CannotWrite
from conformance.test_files.literals import INDENT, Expression, call, ids_text, one_line, rows, tensor_text
from conformance.test_files.lora_compat_dialect import sub_adapter
from conformance.test_files.script import Script, compared, shown, shown_of
from conformance.values.experts import SCALING, ExpertsTensors, tensors_of
from lora_compat.expert_parts import ExpertAdapter, ExpertsAdapter
from strategies.experts import ExpertsCase

_OF_THE_RANK = ("rank-indivisible", "rank-not-smallest")


def script_of(failure: StoredFailure, case: ExpertsCase, dialect: Dialect) -> Script:
    """What the clause does with the mixture.

    Raises:
        CannotWrite: it is for a library whose mixtures are not driven.
    """
    if dialect.impl == "vllm":
        raise CannotWrite("vLLM's mixtures of experts are not driven: on a CPU its wheel lacks an operator of theirs")
    tensors = tensors_of(case)
    bare, warms_up = failure.anomaly == "base-changed", failure.clause == "RANK-6"
    former = None if warms_up else tensors.former
    resets = former is not None and failure.sighting.after_a_reset
    expected = shown_of(dense(case, tensors, adapted=not (bare or warms_up or resets)), case.tokens)
    deployment = Deployment(case.max_loras, case.max_rank, case.fully_sharded, (), tensors.routed.hidden.dtype)
    wrapping = dialect.wrap(deployment, "wrap_experts")
    if failure.anomaly in _OF_THE_RANK:
        expected = -(-case.max_rank // case.rank_shards) * case.rank_shards
        asked = f"outputs = warmup_rank_of(lora, max_lora_rank={8 * case.max_rank}, default={case.max_rank})"
        lines = [*_built(case, dialect), *wrapping, asked]
    else:
        lines = [*_built(case, dialect), *_weights(tensors), *_asked(tensors)]
        forward = f"{'layer' if bare else 'lora'}(x, weights, ids)"
        if not bare:
            loads = _dummies(case) if warms_up else _adapters(case, tensors)
            selected = dialect.select(deployment, case.token_slots)
            before = [] if former is None else [line for spec in case.adapters for line in _loaded(spec.slot, former)]
            lines += [*wrapping, *before, *selected, *([forward] if before else []), *loads]
            lines += [forward, *(f"lora.reset_lora({spec.slot})" for spec in case.adapters)] if resets else []
        lines += [f"outputs = {shown(forward, case.tokens)}"]
    return Script(
        lines=lines,
        returns="outputs",
        verdict=compared([expected] * case.tp_size, case.tp_size),
        ranks=case.tp_size,
        reduces=failure.anomaly not in _OF_THE_RANK,
    )


def _built(case: ExpertsCase, dialect: Dialect) -> list[str]:
    sizes = [case.experts, case.top_k, case.hidden_size, case.intermediate_size]
    given = [*map(str, sizes), 'activation="relu"', *(["expert_parallel=True"] if case.expert_parallel else [])]
    note, made = (
        "# Experts in all and for each token, hidden and intermediate size",
        call("layer: Any = FusedMoE", given),
    )
    return [note, f"with {dialect.context}:", INDENT + made] if case.tp_size > 1 else [note, made]


def _weights(tensors: ExpertsTensors) -> list[str]:
    weights = [(one.gate.tolist(), one.up.tolist(), one.down.tolist()) for one in tensors.weights]
    return [
        f"experts = {rows(weights)}  # gate, up and down of each",
        "for expert, (w1, w3, w2) in enumerate(experts):",
        *(
            f'{INDENT}layer.weight_loader(layer.{weight}, torch.tensor({shard}), "{shard}", expert)'
            for weight, shard in (("w13_weight", "w1"), ("w13_weight", "w3"), ("w2_weight", "w2"))
        ),
    ]


def _dummies(case: ExpertsCase) -> list[str]:
    return [f"lora.set_lora({spec.slot}, dummy_experts(lora, {case.max_rank}))" for spec in case.adapters]


def _adapters(case: ExpertsCase, tensors: ExpertsTensors) -> list[str]:
    specs = zip(case.adapters, tensors.adapters, strict=True)
    return [line for spec, adapter in specs for line in _loaded(spec.slot, adapter)]


def _loaded(slot: int, adapter: ExpertsAdapter) -> list[str]:
    """An adapter's parts of each expert that it has, put into a slot."""
    experts = {f"expert_{at}": expert for at, expert in enumerate(adapter.experts) if expert is not None}
    lines = [line for name, expert in experts.items() for line in _expert(name, expert)]
    names = [f"expert_{at}" if expert is not None else "None" for at, expert in enumerate(adapter.experts)]
    every = one_line(tuple(map(Expression, names)))
    return [*lines, f"lora.set_lora({slot}, ExpertsAdapter({every}, scaling={SCALING}))"]


def _expert(name: str, expert: ExpertAdapter) -> list[str]:
    halves = ("gate_up",) if len(expert.gate_up) == 1 else ("gate", "up")
    parts = {**dict(zip(halves, expert.gate_up, strict=True)), "down": expert.down}
    lines = [f"{part} = {sub_adapter(one)}" for part, one in parts.items() if one is not None]
    *upper, down = (Expression(part if one is not None else "None") for part, one in parts.items())
    return [*lines, f"{name} = ExpertAdapter({one_line(tuple(upper))}, {down})"]


def _asked(tensors: ExpertsTensors) -> list[str]:
    return [
        f"x = {tensor_text(tensors.routed.hidden)}",
        f"ids = {ids_text(tensors.routed.ids)}  # of each token's experts",
        f"weights = {tensor_text(tensors.routed.weights)}",
    ]
