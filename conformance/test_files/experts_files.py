"""Regression files of mixtures of experts (MATH-16, RANK-6)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from conformance.oracles.experts import dense
from conformance.regressions.entries import StoredFailure
from conformance.test_files.dialects import CannotWrite, Dialect
from conformance.test_files.layer_files import assembled
from conformance.test_files.literals import INDENT, Expression, call, one_line, rows, tensor_text
from conformance.test_files.scenes import Scene
from conformance.values.experts import SCALING, ExpertsTensors, tensors_of
from lora_compat.adapters import SubAdapter
from lora_compat.expert_adapters import ExpertAdapter, ExpertsAdapter
from strategies.cases import Case
from strategies.experts import ExpertsCase

_OF_THE_RANK = ("rank-indivisible", "rank-not-smallest")


def write(failure: StoredFailure, case: ExpertsCase, dialect: Dialect, told: str) -> str:
    """The file.

    Raises:
        CannotWrite: it is for a library whose mixtures are not driven.
    """
    if dialect.impl == "vllm":
        raise CannotWrite("vLLM's mixtures of experts are not driven: on a CPU its wheel lacks an operator of theirs")
    form = _Form(failure, case, tensors_of(case), dialect)
    return assembled(form.scene, dialect, told, form.lines(), form.imports(), [], reduces=not form.asks_rank)


@dataclass(frozen=True, slots=True)
class _Form:
    failure: StoredFailure
    case: ExpertsCase
    tensors: ExpertsTensors
    dialect: Dialect

    @property
    def asks_rank(self) -> bool:
        """Whether it is the rank of the warm-up that is wrong, whatever comes out of the layer."""
        return self.failure.anomaly in _OF_THE_RANK

    @property
    def warms_up(self) -> bool:
        """Whether dummies are loaded in place of adapters."""
        return self.failure.clause == "RANK-6"

    @property
    def bare(self) -> bool:
        """Whether it is the layer without adapters that is wrong."""
        return self.failure.anomaly == "base-changed"

    @property
    def scene(self) -> Scene:
        """The case in the words that the dialects know."""
        case = self.case
        as_layer = Case(
            tp_size=case.tp_size,
            fully_sharded=case.fully_sharded,
            max_loras=case.max_loras,
            max_rank=case.max_rank,
            tokens=case.tokens,
        )
        return Scene(
            clause=self.failure.clause,
            anomaly=self.failure.anomaly,
            case=as_layer,
            weights=[],
            biases=[],
            adapters=[],
            inputs=[self.tensors.routed.hidden] * case.tp_size,
            slots=case.token_slots,
            expected=[[self._expected()]] * case.tp_size,
            paths=("result",),
            bound=0.0,
            summed=False,
        )

    def _expected(self) -> Tensor:
        if self.asks_rank:
            shards = self.case.rank_shards
            return torch.tensor(-(-self.case.max_rank // shards) * shards)
        return dense(self.case, self.tensors, adapted=not (self.bare or self.warms_up))

    def lines(self) -> list[str]:
        """From the layer to ``outputs``."""
        case, wrapping = self.case, [one.replace("layer(", "experts(") for one in self.dialect.wrap(self.scene)]
        if self.asks_rank:
            asked = ["lora", f"max_lora_rank={8 * case.max_rank}", f"default={case.max_rank}"]
            return [*self._built(), *wrapping, call("outputs = warmup_rank_of", asked)]
        lines = [*self._built(), *self._weights()]
        if not self.bare:
            loads = self._dummies() if self.warms_up else self._adapters()
            lines += [*wrapping, *loads, *self.dialect.select(self.scene, case.token_slots)]
        routed = self.tensors.routed
        return [
            *lines,
            f"x = {tensor_text(routed.hidden)}",
            f"ids = torch.tensor({one_line(routed.ids)})  # of each token's experts",
            f"weights = {tensor_text(routed.weights)}",
            f"outputs = {'layer' if self.bare else 'lora'}(x, weights, ids).tolist()",
        ]

    def _built(self) -> list[str]:
        case, context = self.case, self.dialect.context if self.case.tp_size > 1 else None
        sizes = [case.experts, len(case.routing[0]), case.hidden_size, case.intermediate_size]
        given = [*map(str, sizes), 'activation="relu"', *(["expert_parallel=True"] if case.expert_parallel else [])]
        return [
            "# Experts in all and for each token, hidden and intermediate size",
            *([f"with {context}:"] if context else []),
            (INDENT if context else "") + call("layer: Any = FusedMoE", given),
        ]

    def _weights(self) -> list[str]:
        weights = [(one.gate.tolist(), one.up.tolist(), one.down.tolist()) for one in self.tensors.weights]
        loads = [("w13_weight", "w1"), ("w13_weight", "w3"), ("w2_weight", "w2")]
        return [
            f"experts = {rows(weights)}  # gate, up and down of each",
            "for expert, (w1, w3, w2) in enumerate(experts):",
            *(
                f'{INDENT}layer.weight_loader(layer.{weight}, torch.tensor({shard}), "{shard}", expert)'
                for weight, shard in loads
            ),
        ]

    def _adapters(self) -> list[str]:
        specs = zip(self.case.adapters, self.tensors.adapters, strict=True)
        return [line for spec, adapter in specs for line in _loaded(spec.slot, adapter)]

    def _dummies(self) -> list[str]:
        return [
            f"lora.set_lora({spec.slot}, dummy_experts(lora, {self.case.max_rank}))" for spec in self.case.adapters
        ]

    def imports(self) -> set[str]:
        """Import lines."""
        names = {"FusedMoE"} | ({"tensor_parallel"} if self.case.tp_size > 1 else set())
        names |= set() if self.bare else {"LoRAConfig", "wrap_experts"}
        if self.asks_rank:
            names |= {"warmup_rank_of"}
        elif not self.bare:
            names |= {"TokenBatch", *({"dummy_experts"} if self.warms_up else {"ExpertsAdapter"})}
        if not (self.bare or self.warms_up):
            there = [one for adapter in self.tensors.adapters for one in adapter.experts if one is not None]
            names |= {"ExpertAdapter", "SubAdapter"} if there else set()
        return {f"from lora_compat import {', '.join(names)}"}


def _loaded(slot: int, adapter: ExpertsAdapter) -> list[str]:
    """An adapter's parts of each expert that it has, put into a slot."""
    lines, names = [], []
    for index, expert in enumerate(adapter.experts):
        names.append("None" if expert is None else f"expert_{index}")
        lines += [] if expert is None else _expert(names[-1], expert)
    every = one_line(tuple(map(Expression, names)))
    return [*lines, f"lora.set_lora({slot}, ExpertsAdapter({every}, scaling={SCALING}))"]


def _expert(name: str, expert: ExpertAdapter) -> list[str]:
    fused = len(expert.gate_up) == 1
    parts: dict[str, SubAdapter | None] = dict(
        zip(("gate_up",) if fused else ("gate", "up"), expert.gate_up, strict=True)
    )
    parts["down"] = expert.down
    lines = [
        call(f"{part} = SubAdapter", [tensor_text(one.lora_a), tensor_text(one.lora_b)])
        for part, one in parts.items()
        if one is not None
    ]
    *halves, down = (part if one is not None else "None" for part, one in parts.items())
    return [*lines, f"{name} = ExpertAdapter(({', '.join(halves)}{',' if fused else ''}), {down})"]
