"""Adapter directories: made and merged by PEFT, and read back, since what is in the file is what counts."""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from conformance.subjects.models.decoders import decoder_of, name_alone, role_of
from conformance.subjects.models.features import asked, prepare
from conformance.subjects.models.keys import KEY, PREFIX
from conformance.subjects.outcomes import NotApplicable
from conformance.values.models import fill_factor, fill_weight
from strategies.models.adapters import SAVED_HEADS, ModelAdapter

if TYPE_CHECKING:
    from peft import PeftModel

TENSORS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


@dataclass(frozen=True, slots=True)
class FilePair:
    """Two tensors of an adapter file, and what they add; or weight and bias of a head that the file holds whole.

    ``module`` is the name in the file, ``parameter`` that of the parameter in transformers' model; ``delta``, of the
    parameter's shape and float32, is scaling · B · A, computed from the file's tensors, of a head what makes the
    base's weight the file's. ``role`` says what the module is for, see `role_of`, and ``alone`` what its name is in
    the language model alone, see `name_alone`. A head has the rank 0.
    """

    module: str
    key_a: str
    key_b: str
    rank: int
    scaling: float
    parameter: str
    delta: Tensor
    role: str = ""
    alone: str = ""

    @property
    def keys(self) -> tuple[str, str]:
        """Both keys."""
        return self.key_a, self.key_b


@dataclass(frozen=True, slots=True)
class AdapterFile:
    """What a PEFT directory holds: its pairs, and the keys that are of no pair."""

    pairs: tuple[FilePair, ...]
    others: tuple[str, ...]
    rank: int = 1  # the largest that its configuration speaks of

    @property
    def saved_beside(self) -> tuple[str, ...]:
        """The modules of the keys that are of no pair."""
        return tuple(key.removeprefix(PREFIX).rpartition(".")[0].removesuffix(".base_layer") for key in self.others)

    @property
    def of_experts(self) -> bool:
        """Whether any pair is of routed experts, stacked or each by itself."""
        return any(".experts." in f".{pair.parameter}" for pair in self.pairs)

    def keys_by_module(self) -> list[tuple[str, ...]]:
        """The keys of each module; PEFT writes stacked experts of one module as each other's base layer."""
        found: dict[str, tuple[str, ...]] = {}
        for pair in self.pairs:
            module = pair.module.split(".base_layer")[0]
            found[module] = (*found.get(module, ()), *pair.keys)
        return list(found.values())

    def alone(self, keys: Sequence[str]) -> set[str]:
        """What the smallest file with these has: a head is in none of PEFT's without A and B of something else."""
        plain = next((pair.keys for pair in self.pairs if pair.rank), ())
        whole = any(pair.key_a in keys and not pair.rank for pair in self.pairs)
        return {*keys, *(plain if whole else ())}


def adapted(model: nn.Module, adapter: ModelAdapter, seed: int) -> PeftModel:
    """``model`` with an adapter of the numbers of ``seed``, in place.

    Raises:
        NotApplicable: PEFT does not make such an adapter for this model.
    """
    from peft import LoraConfig, get_peft_model

    prepare(model, adapter.feature)
    config = LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha,  # type: ignore[arg-type]
        use_rslora=adapter.rslora,
        target_modules=adapter.target_modules,
        target_parameters=list(adapter.parameters) or None,
        layers_to_transform=list(adapter.layers) or None,
        rank_pattern=adapter.rank_pattern,
        alpha_pattern=adapter.alpha_pattern,
        modules_to_save=list(adapter.saved) or None,
        **asked(adapter.feature),
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wrapped: Any = get_peft_model(model, config)
    except (ValueError, NotImplementedError, RuntimeError, TypeError) as error:
        raise NotApplicable(f"PEFT makes no such adapter: {str(error).splitlines()[0]}") from error
    for scaling in (one for module in wrapped.modules() for one in _scalings(module)):
        if math.frexp(scaling)[0] != 0.5:
            raise NotApplicable(f"PEFT's own rank for fused experts makes the scaling {scaling:g}, which is not exact")
    dtype = next(model.parameters()).dtype
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name:
            fill_factor(parameter.data, seed, name, is_b="_B." in name, dtype=dtype)
        elif "modules_to_save" in name or "trainable_tokens" in name:
            fill_weight(parameter.data, seed + 1, name)
    wrapped.create_or_update_model_card = lambda output_dir: None  # a third of the time
    found: PeftModel = wrapped
    return found


def save_adapter(wrapped: PeftModel, directory: Path) -> None:
    """As PEFT does, which asks the model where its embedding is; a model of several models does not say."""
    try:
        wrapped.save_pretrained(str(directory))
    except NotImplementedError:
        wrapped.save_pretrained(str(directory), save_embedding_layers=False)


def read_adapter(directory: Path, wrapped: PeftModel) -> AdapterFile:
    """What is in the directory, and where PEFT has it in the model."""
    config = json.loads((directory / CONFIG).read_text(encoding="utf-8"))
    tensors = load_file(directory / TENSORS)
    model = wrapped.get_base_model()
    decoder = decoder_of(model)
    halves: dict[str, dict[str, str]] = {}
    others = []
    for key in tensors:
        found = KEY.match(key)
        if found is None:
            others.append(key)
        else:
            halves.setdefault(found["module"], {})[found["part"]] = key
    pairs = []
    for module, keys in halves.items():
        layer: Any = wrapped.get_submodule(PREFIX + module)
        parameter = _parameter_of(module, layer)
        scaling = scaling_of(config, parameter if hasattr(layer, "parameter_name") else module)
        a, b = (tensors[keys[part]].float() for part in "AB")
        delta = scaling * _product(layer, a, b)
        role, rank = role_of(parameter, decoder), layer.r["default"]
        alone = name_alone(module, model, decoder)
        pairs.append(FilePair(module, keys["A"], keys["B"], rank, scaling, parameter, delta, role, alone))
    heads = _heads(others, tensors, wrapped)
    pairs += [replace(one, role=role_of(one.parameter, decoder)) for one in heads]
    others = [key for key in others if not any(key in one.keys for one in heads)]
    ranks = (config["r"], *(config.get("rank_pattern") or {}).values())
    return AdapterFile(tuple(pairs), tuple(others), max(ranks))


def _heads(keys: Sequence[str], tensors: Mapping[str, Tensor], wrapped: PeftModel) -> list[FilePair]:
    """Weights of heads that the file holds whole, with their biases where it has these."""
    found = []
    for key in (one for one in keys if one.endswith(".weight")):
        module = key.removeprefix(PREFIX).removesuffix(".weight")
        head = next((one for one in SAVED_HEADS if one in module.split(".")), "")
        outer = module[: module.find(head) + len(head)] if head else ""
        saved: Any = wrapped.get_submodule(PREFIX + outer) if head else None
        if hasattr(saved, "original_module"):
            inside = saved.original_module.get_submodule(module[len(outer) + 1 :])
            bias = f"{key.removesuffix('.weight')}.bias"
            keys_of = key, bias if bias in tensors else key
            delta = tensors[key].float() - inside.weight.detach().float()
            found.append(FilePair(module, *keys_of, 0, 1.0, f"{module}.weight", delta))
    return found


def _parameter_of(module: str, layer: Any) -> str:
    """The parameter's name: PEFT nests wrappers of several parameters of one module, each as the other's base."""
    name = getattr(layer, "parameter_name", None) or "weight"
    return f"{module.replace('.base_layer', '')}.{name}"


def _product(layer: Any, a: Tensor, b: Tensor) -> Tensor:
    """B · A as the parameter has its axes: turned for embeddings and `Conv1D`, expert by expert where stacked."""
    weight = layer.get_param() if hasattr(layer, "get_param") else layer.get_base_layer().weight
    if getattr(layer.get_base_layer(), "groups", 2) == 1:  # a convolution, whose A has the whole kernel
        return (b.flatten(1) @ a.flatten(1)).reshape(weight.shape)
    if not hasattr(layer, "fan_in_fan_out"):
        raise NotApplicable(f"PEFT does not merge a {type(layer).__name__} in groups")
    experts = weight.shape[0] if weight.ndim == 3 else 1
    if experts == 1:
        embeds = hasattr(layer, "lora_embedding_A") and "default" in layer.lora_embedding_A
        return (b @ a).T if embeds or layer.fan_in_fan_out else b @ a
    stacked_a = a.reshape(experts, -1, a.shape[-1])  # experts, rank, in: PEFT stacks experts outside of ranks in A,
    stacked_b = b.reshape(b.shape[0], -1, experts)  # out, rank, experts: and inside of them in B
    product = torch.einsum("ore,eri->eoi", stacked_b, stacked_a)
    return product if layer._did_swap_in_out_features else product.transpose(1, 2)


def scaling_of(config: Mapping[str, Any], module: str) -> float:
    """The scaling of a module under PEFT's rules, from the directory's own configuration.

    A pattern matches where it is an end of the module's name; of two the first does.
    """
    rank = _matching(config.get("rank_pattern") or {}, module, config["r"])
    alpha = _matching(config.get("alpha_pattern") or {}, module, config["lora_alpha"])
    return float(alpha / rank**0.5 if config.get("use_rslora") else alpha / rank)


def _matching(pattern: Mapping[str, Any], module: str, otherwise: Any) -> Any:
    for key, value in pattern.items():
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return otherwise


def cut(source: Path, target: Path, keys: set[str], feature: str = "", *, turned: bool = False) -> None:
    """Writes the directory again with some of its tensors only, and without a feature; ``turned``, with B negated."""
    target.mkdir(parents=True)
    config = json.loads((source / CONFIG).read_text(encoding="utf-8"))
    config.pop(feature, None)
    (target / CONFIG).write_text(json.dumps(config), encoding="utf-8")
    with safe_open(source / TENSORS, framework="pt") as file:
        kept = {key: file.get_tensor(key) for key in file.keys() if key in keys}  # noqa: SIM118 (no mapping)
    of_b = {key for key in kept if turned and (found := KEY.match(key)) and found["part"] == "B"}
    kept |= {key: -kept[key] for key in of_b}
    save_file(kept, target / TENSORS)


def _scalings(module: nn.Module) -> list[float]:
    found = getattr(module, "scaling", None)
    return list(found.values()) if isinstance(found, dict) else []  # attention has a number of that name
