"""Giving slots to the parameters of a model that its checkpoint is moved to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor, nn

from lora_compat.adapters import LoRAConfig
from lora_compat.checkpoint_map import CheckpointMap
from lora_compat.embeddings import LoRAEmbedding, intercept_lookups
from lora_compat.errors import LoRAError, UnknownTargetError, UnsupportedLayerError, WrappedOtherwiseError
from lora_compat.interception import delta_of
from lora_compat.lora_layers import LORA_LAYERS, LoRALayer
from lora_compat.mapped.bare import BareWeight
from lora_compat.mapped.kinds import Kind, kind_of, token_wise
from lora_compat.mapped.lookups import guard
from lora_compat.mapped.plans import lanes, plan_of
from lora_compat.mapped.stacks import StackedWeights
from lora_compat.model_tree import Site, sites
from lora_compat.wrapper import LoRALinear


class MapMismatchError(LoRAError):
    """A map of another model."""

    def __init__(self, parameter: str, expected: object, received: object) -> None:
        super().__init__(
            f"the checkpoint map has {parameter!r} as {expected}, and the model as {received}: learn the map of this "
            "model, on this rank"
        )


@dataclass(frozen=True, slots=True)
class Taker:
    """A LoRA layer that takes adapters of a parameter: those of embeddings, or all others."""

    layer: str
    attribute: str
    looked_up: bool = False


@dataclass(frozen=True, slots=True)
class MappedModel:
    """The LoRA layers of a model, which of them take adapters of a parameter, and why some parameters have none.

    ``same`` has for a further name of a parameter of the same module the first; ``parameters`` are all of the map.
    """

    layers: dict[str, LoRALayer] = field(default_factory=dict)
    takers: dict[str, list[Taker]] = field(default_factory=dict)
    unserved: dict[str, str] = field(default_factory=dict)
    same: dict[str, str] = field(default_factory=dict)
    parameters: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Holder:
    """A parameter in the module that holds it, and the checkpoint tensors that any rank has in it."""

    name: str
    site: Site
    attribute: str
    shape: tuple[int, ...]
    tensors: tuple[str, ...]

    @property
    def module_name(self) -> str:
        return self.name.rpartition(".")[0]

    @property
    def spoken(self) -> list[str]:
        """What a target may call it: its module, itself, or what it is in the checkpoint."""
        return [
            *self.site.names,
            *(f"{name}.{self.attribute}" for name in self.site.names),
            self.name,
            *self.tensors,
            *(tensor.removesuffix(".weight") for tensor in self.tensors),
        ]


def wrap_mapped(
    model: nn.Module, config: LoRAConfig, targets: Sequence[str] | None, maps: Sequence[CheckpointMap]
) -> MappedModel:
    """Gives slots to every parameter that ``targets`` name; linear layers are replaced, others stay where they are.

    Args:
        maps: of all ranks, this one's first.

    Raises:
        MapMismatchError: the map is of another model.
        UnknownTargetError: a target names no parameter that the checkpoint is moved to.
        WrappedOtherwiseError: the model was wrapped before.
    """
    found = MappedModel()
    holders = list(_holders(model, maps, found))
    _require_known(holders, targets)
    stacks: dict[str, list[_Holder]] = {}
    replaced: list[tuple[Site, LoRALinear]] = []
    for holder in holders:
        module, dimensions = holder.site.module, len(holder.shape)
        kind = kind_of(module, holder.attribute, dimensions) if holder.attribute in module._parameters else None
        if kind in (Kind.EMBEDDING, Kind.HEAD):
            intercept_lookups(module)
        if targets is not None and not _named(holder, targets):
            found.unserved[holder.name] = "which target_modules does not name"
        elif kind is None:
            found.unserved[holder.name] = _why(module, holder.attribute)
        elif kind is Kind.STACK:
            stacks.setdefault(holder.module_name, []).append(holder)
        else:
            replaced += _matrix(holder, kind, config, maps, found)
    for name, some in stacks.items():
        module, attributes = some[0].site.module, [one.attribute for one in some]
        found.layers[name] = StackedWeights(module, attributes, token_wise(module), config, name=name)
        found.takers.update({one.name: [Taker(name, one.attribute)] for one in some})
    for site, layer in replaced:
        site.replace(layer)
    for one in found.layers.values():
        if isinstance(one, LoRAEmbedding):
            guard(one)
    return found


def _holders(model: nn.Module, maps: Sequence[CheckpointMap], found: MappedModel) -> Iterator[_Holder]:
    """Alike on all ranks, whether they hold anything or only padding."""
    root = Site(model, [""])
    by_name = {"": root} | {name: site for site in sites(model) for name in site.names}
    first: dict[tuple[int, str], str] = {}
    for name, parameter in maps[0].parameters.items():
        prefix, _, attribute = name.rpartition(".")
        site = by_name.get(prefix)
        tensor = getattr(site.module, attribute, None) if site else None
        if site is None or tensor is None or tuple(tensor.shape) != parameter.shape:
            raise MapMismatchError(name, parameter.shape, "absent" if tensor is None else tuple(tensor.shape))
        if isinstance(site.module, LORA_LAYERS) or delta_of(site.module) is not None:
            raise WrappedOtherwiseError(prefix, "a manager", "a map")
        found.parameters[name] = tensor
        other = first.setdefault((id(site.module), attribute), name)
        if other != name:
            found.same[name] = other
        elif len(parameter.shape) > 1:
            tensors = dict.fromkeys(one for rank in maps for one in rank.parameters[name].tensors)
            if tensors:
                yield _Holder(name, site, attribute, parameter.shape, tuple(tensors))


def _matrix(
    holder: _Holder, kind: Kind, config: LoRAConfig, maps: Sequence[CheckpointMap], found: MappedModel
) -> Iterator[tuple[Site, LoRALinear]]:
    """The layers of one matrix; those that are to stand in their modules' place."""
    module, name = holder.site.module, holder.module_name
    count = lanes(holder.name, maps)
    plan = plan_of(module, holder.name, maps, fully_sharded=config.fully_sharded_loras)
    wide = replace(config, max_lora_rank=config.max_lora_rank * count)
    takers = found.takers.setdefault(holder.name, [])
    if kind is Kind.EMBEDDING:
        found.layers[name] = LoRAEmbedding(module, config, name=name, lanes=count)
        takers.append(Taker(name, holder.attribute, looked_up=True))
        name = next((other for other in holder.site.names if other != name), "")  # multiplied with under that one
        if not name:
            return
    try:
        if kind is Kind.BARE:
            name = holder.name
            found.layers[name] = BareWeight(module, holder.attribute, wide, name=name, plan=plan)
        else:
            layer = found.layers[name] = LoRALinear(module, wide, name=name, plan=plan)
            if kind is Kind.LINEAR:
                yield holder.site, layer
        takers.append(Taker(name, holder.attribute))
    except UnsupportedLayerError as error:
        found.unserved[holder.name] = f"which cannot carry LoRA: {error.reason}"


def _why(module: nn.Module, attribute: str) -> str:
    if attribute not in module._parameters:
        return "which is made of it while loading and is no parameter"
    return f"which {type(module).__qualname__} uses in a way of its own"


def _named(holder: _Holder, targets: Sequence[str]) -> bool:
    return any(name == target or name.endswith(f".{target}") for name in holder.spoken for target in targets)


def _require_known(holders: Sequence[_Holder], targets: Sequence[str] | None) -> None:
    for target in targets or ():
        if not any(_named(holder, [target]) for holder in holders):
            raise UnknownTargetError(target, [holder.module_name or holder.name for holder in holders])
