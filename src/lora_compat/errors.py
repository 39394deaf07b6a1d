"""Everything `lora_compat` refuses, one class per refusal; each message says what, where, and what would work."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


class LoRAError(Exception):
    """Base of every error this library raises on purpose."""


class UnsupportedLayerError(LoRAError):
    """A layer that belongs to no known linear family, or has nothing to intercept (WRAP-6)."""

    def __init__(self, layer: object, reason: str, *, name: str = "") -> None:
        where = f"module {name!r} of class" if name else "a layer of class"
        super().__init__(f"cannot wrap {where} {type(layer).__qualname__!r}: {reason}")
        self.layer_class = type(layer)
        self.reason = reason


class TargetModuleError(LoRAError):
    """The deployment named a module in ``target_modules`` that cannot be wrapped (WRAP-6)."""

    def __init__(self, name: str, layer: object, targets: Iterable[str], reason: str) -> None:
        super().__init__(
            f"target_modules={sorted(targets)!r} names module {name!r}, but its class "
            f"{type(layer).__qualname__!r} cannot carry LoRA: {reason}. Remove the name from target_modules, or "
            "make the class a subclass of a supported linear layer."
        )


class QuantMethodNotFoundError(LoRAError):
    """No module of a wrapper chain has a quant method (UNWRAP-4)."""

    def __init__(self, chain: Sequence[str]) -> None:
        super().__init__(
            f"no quant method in the wrapper chain {' → '.join(chain)}: every module was asked for an attribute "
            "'quant_method' that is not None; the innermost should be a linear layer."
        )


class WrapperCycleError(LoRAError):
    """A wrapper chain that leads back to itself (UNWRAP-4)."""

    def __init__(self, chain: Sequence[str]) -> None:
        super().__init__(
            f"the wrapper chain {' → '.join(chain)} loops: following 'base_layer' must end at a linear layer."
        )


class WarmupRankError(LoRAError):
    """No dummy rank divides evenly over the ranks that shard it (RANK-4)."""

    def __init__(self, default: int, multiple: int, maximum: int) -> None:
        super().__init__(
            f"no warm-up rank: the default is {default}, but fully sharded layers need a multiple of {multiple} and "
            f"max_lora_rank is {maximum}. Raise max_lora_rank to at least {multiple}, or turn fully_sharded_loras off."
        )
        self.default, self.multiple, self.maximum = default, multiple, maximum


class AdapterShapeError(LoRAError):
    """An adapter tensor that does not fit its module (LIFE-3)."""

    def __init__(self, module: str, tensor: str, *, expected: object, received: object) -> None:
        super().__init__(f"{tensor} of module {module!r}: expected {expected}, received {received}")
        self.module, self.tensor, self.expected, self.received = module, tensor, expected, received


class AmbiguousPartsError(LoRAError):
    """Sub-adapters of a packed layer that can be laid over its output slices in no way, or in several."""

    def __init__(self, module: str, rows: Sequence[int | None], sizes: Sequence[int], ways: int) -> None:
        how = "no way" if ways == 0 else f"{ways} ways"
        super().__init__(
            f"packed module {module!r} has output sizes {tuple(sizes)}; sub-adapters with LoRA B rows {tuple(rows)} "
            f"(None: absent) can cover consecutive outputs in {how}, exactly one is needed."
        )


class SlotError(LoRAError):
    """A slot index outside the slots that exist."""

    def __init__(self, slot: int, max_loras: int) -> None:
        super().__init__(f"slot {slot} does not exist: max_loras={max_loras} gives slots 0 to {max_loras - 1}")


class TokenCountError(LoRAError):
    """A matmul over another number of tokens than the batch maps."""

    def __init__(self, layer: str, tokens: int, mapped: int) -> None:
        super().__init__(
            f"{layer} multiplies {tokens} tokens, but the batch maps {mapped}: select a batch with one slot per token "
            "(the product of all input dimensions but the last)."
        )


class TokenOrderError(LoRAError):
    """A forward that multiplies rows of which nobody knows whose tokens they are, in a batch of several adapters."""

    def __init__(self, layer: str) -> None:
        super().__init__(
            f"{layer}: its forward multiplies rows that cannot be followed back to the tokens of its input, and the "
            "batch mixes adapters, so a row might be served another token's. Permute and cut the input with torch's "
            "own functions, or batch tokens of one adapter only."
        )


class MatmulBypassedError(LoRAError):
    """A forward, or a sibling, used the base weight in a way that no adapter can be added to (WRAP-7)."""

    def __init__(self, layer: str, how: str) -> None:
        super().__init__(
            f"{layer}: {how}, so the active adapters cannot be added. Compute with quant_method.apply, "
            "torch.nn.functional.linear or torch.matmul on the weight, or deactivate the adapters first."
        )


class UnknownTargetError(LoRAError):
    """A target that names no layer of the model, or only modules that hold layers (TARGET-1)."""

    def __init__(self, target: str, known: Sequence[str], containers: Sequence[str] = ()) -> None:
        if containers:
            reason = f"matches only {_listed(containers)}, which holds layers and is none: name the layers in it"
        else:
            reason = "matches no module of the model"
        super().__init__(f"target_modules: {target!r} {reason}; layers that can be named: {_listed(known)}")
        self.target = target


class AdapterFormatError(LoRAError):
    """A path that holds no adapter this library can serve (LIFE-3)."""

    def __init__(self, path: object, reason: str) -> None:
        super().__init__(f"adapter {str(path)!r}: {reason}")
        self.path, self.reason = path, reason


class UnservedFeatureError(AdapterFormatError):
    """An adapter that needs more than LoRA A, LoRA B and a scaling: modules saved whole, DoRA, trained biases."""


class AmbiguousAdapterError(AdapterFormatError):
    """An adapter whose tensors fit in several ways, or in none; nothing in the file tells which is meant."""


class UnknownModulesError(LoRAError):
    """An adapter with tensors for modules that carry no LoRA here; it would be served in part only."""

    def __init__(self, adapter: object, names: Sequence[str], known: Sequence[str]) -> None:
        super().__init__(
            f"adapter {adapter} has tensors for {_listed(names)}, which no LoRA layer of the model takes; it would be "
            f"served in part only. The model's LoRA layers take {_listed(known)}."
        )
        self.names = tuple(names)


class AdapterStateError(LoRAError):
    """An adapter that is not where the request needs it: not registered, or not active."""

    def __init__(self, adapter: int, needed: str, present: Iterable[int], what_to_do: str) -> None:
        super().__init__(f"adapter {adapter} is not {needed} ({needed}: {_listed(sorted(present))}): {what_to_do}")
        self.adapter = adapter


class FullHouseError(LoRAError):
    """No place for one more adapter, and nothing that may be evicted (LIFE-2)."""

    def __init__(self, place: str, capacity: int, holders: Iterable[int], setting: str, why: str) -> None:
        super().__init__(
            f"no free {place}: all {capacity} are taken by adapters {_listed(sorted(holders))}, {why}. "
            f"Free one of them, or raise {setting}."
        )
        self.capacity = capacity


class WrappedOtherwiseError(LoRAError):
    """A model whose layers were wrapped before, under other settings (WRAP-5)."""

    def __init__(self, module: str, had: object, wanted: object) -> None:
        super().__init__(f"module {module!r} was wrapped before with {had}, and is now wanted with {wanted}")


def _listed(items: Sequence[object], most: int = 8) -> str:
    """The first few of ``items``, comma-separated."""
    shown = ", ".join(map(str, items[:most])) or "none"
    return shown if len(items) <= most else f"{shown} and {len(items) - most} more"
