"""Pairs of an adapter file as what they add to checkpoint tensors: which one, and which way round, by their shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

from torch import Tensor

from lora_compat.checkpoint_map.adapter_names import Named, plain
from lora_compat.checkpoint_map.factors import TensorDelta
from lora_compat.checkpoint_map.shapes import TensorInfo
from lora_compat.peft_config import CONFIG_FILE, PeftConfig
from lora_compat.peft_loading import Ambiguity, LoRAPair


@dataclass(frozen=True, slots=True)
class Fit:
    """One way to read a pair as a delta of a tensor: ``turned``, A is of the tensor's rows and B of its columns."""

    tensor: str
    stack: int
    turned: bool


class Fitting:
    """Reads pairs by the shapes of a checkpoint's tensors.

    PEFT's linear layers add B · A, its `Conv1D` (``fan_in_fan_out``) and its embeddings the transpose of that. Of a
    stack of experts ``[experts, m, n]`` older PEFT, and newer for modules that are called transposed, has A of ``m``
    and B of ``n``, and otherwise A of ``n`` and B of ``m``. In A the experts are outside of the ranks, in B inside.
    PEFT's patterns are matched with its own names, as in the file: of modules, or of ``parameters`` that it targets.
    """

    def __init__(
        self,
        shapes: Mapping[str, TensorInfo],
        config: PeftConfig,
        *,
        fan_in_fan_out: bool,
        parameters: Sequence[str] = (),
    ) -> None:
        self._shapes, self._config, self._fan_in_fan_out = shapes, config, fan_in_fan_out
        self._parameters = parameters

    def deltas(self, named: Named, pairs: Mapping[str, LoRAPair]) -> list[TensorDelta]:
        """What the pairs of one module add, by their names in the file: several are of several tensors.

        Raises:
            ValueError: a pair fits no tensor of the module, or several, or in several ways; or its rank is not that
                of the config.
        """
        if named.rows_of:
            ((module, pair),) = pairs.items()
            return self._fused(named, module, pair)
        chosen = self._chosen(named, pairs)
        return [self._delta(module, pairs[module], fit) for module, fit in chosen.items()]

    def _chosen(self, named: Named, pairs: Mapping[str, LoRAPair]) -> dict[str, Fit]:
        fits = {module: self._fits(pair, named.tensors) for module, pair in pairs.items()}
        ways = [
            dict(zip(pairs, order, strict=True))
            for order in permutations(named.tensors, len(pairs))
            if all(
                any(fit.tensor == tensor for fit in fits[module]) for module, tensor in zip(pairs, order, strict=True)
            )
        ]
        if len(ways) != 1:
            shapes = {name: self._shapes[name].shape for name in named.tensors}
            given = {name: (tuple(one.lora_a.shape), tuple(one.lora_b.shape)) for name, one in pairs.items()}
            how = "none" if not ways else f"{len(ways)} ways"
            raise Ambiguity(f"LoRA A and B {given} fit the tensors {shapes} in {how}, exactly one is needed")
        found = {module: [fit for fit in fits[module] if fit.tensor == tensor] for module, tensor in ways[0].items()}
        # The way round is the module's, so one of its tensors that is not square tells it for the others.
        told = {one[0].turned for one in found.values() if len(one) == 1 and one[0].stack > 1}
        for module, one in found.items():
            if len(one) > 1 and len(told) != 1:
                raise Ambiguity(
                    f"module {module!r}: matrices of {one[0].tensor!r} are square, and PEFT has written A and B of "
                    "stacks both ways round; nothing in the file says which"
                )
        return {
            module: one[0] if len(one) == 1 else next(fit for fit in one if fit.turned in told)
            for module, one in found.items()
        }

    def _fits(self, pair: LoRAPair, tensors: Sequence[str]) -> list[Fit]:
        found = []
        for name in tensors:
            shape = self._shapes[name].shape
            if len(shape) not in (2, 3) or pair.lora_a.shape[0] % (stack := shape[0] if len(shape) == 3 else 1):
                continue
            given = (pair.lora_b.shape[0], pair.lora_a.shape[1])
            ways = [turned for turned in (False, True) if given == (shape[-2:][::-1] if turned else shape[-2:])]
            if pair.looked_up:
                ways = [True] if True in ways else []
            elif len(ways) > 1 and len(shape) == 2:
                ways = [self._fan_in_fan_out]
            found += [Fit(name, stack, turned) for turned in ways]
        return found

    def _delta(self, module: str, pair: LoRAPair, fit: Fit) -> TensorDelta:
        name = self._in_peft(module, fit.tensor)
        self._require_rank(module, pair, name, fit.stack)
        lora_a = pair.lora_a.reshape(fit.stack, -1, pair.lora_a.shape[1])
        lora_b = pair.lora_b.reshape(pair.lora_b.shape[0], -1, fit.stack).permute(2, 0, 1)
        if fit.turned:
            lora_a, lora_b = lora_b.transpose(1, 2), lora_a.transpose(1, 2)
        return TensorDelta(fit.tensor, module, lora_a, lora_b, self._config.scaling_of(name), pair.looked_up)

    def _fused(self, named: Named, module: str, pair: LoRAPair) -> list[TensorDelta]:
        rows = [self._shapes[tensor].rows for tensor in named.tensors]
        columns = self._shapes[named.tensors[0]].columns
        lora_a, lora_b = (pair.lora_b.t(), pair.lora_a.t()) if pair.looked_up else (pair.lora_a, pair.lora_b)
        name = self._in_peft(module, "weight")
        self._require_rank(module, pair, name, 1)
        if (lora_b.shape[0], lora_a.shape[1]) != (sum(rows), columns):
            raise ValueError(
                f"module {module!r}: the model's weight is {', '.join(named.tensors)}, {sum(rows)} rows of {columns}; "
                f"LoRA B has {lora_b.shape[0]} rows and LoRA A {lora_a.shape[1]} columns"
            )
        scaling = self._config.scaling_of(name)
        parts: Sequence[Tensor] = lora_b.split(rows)
        return [
            TensorDelta(tensor, module, lora_a[None], part[None], scaling, pair.looked_up)
            for tensor, part in zip(named.tensors, parts, strict=True)
        ]

    def _in_peft(self, module: str, tensor: str) -> str:
        """What PEFT calls a module that has an adapter, or the parameter of it."""
        last = tensor.rpartition(".")[2]
        parameter = f"{plain(module)}.{last}"
        targeted = any(f".{parameter}".endswith(f".{one}") for one in self._parameters)
        return parameter if targeted or last != "weight" else plain(module)

    def _require_rank(self, module: str, pair: LoRAPair, name: str, stack: int) -> None:
        rank = self._config.rank_of(name) * stack
        if (pair.lora_a.shape[0], pair.lora_b.shape[1]) != (rank, rank):
            of = f"{stack} experts of rank {rank // stack}" if stack > 1 else f"rank {rank}"
            raise ValueError(
                f"module {module!r}: expected {of} ({CONFIG_FILE}), received lora_A {tuple(pair.lora_a.shape)} and "
                f"lora_B {tuple(pair.lora_b.shape)}"
            )
