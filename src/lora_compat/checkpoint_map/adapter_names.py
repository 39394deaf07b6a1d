"""Which checkpoint tensors the modules of an adapter file are, under whatever prefix and whichever of their names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from lora_compat.checkpoint_map.expert_stacks import ExpertStack
from lora_compat.checkpoint_map.maps import CheckpointMap, ParameterMap
from lora_compat.errors import AdapterFormatError, AmbiguousAdapterError, UnknownModulesError

_NESTED = ".base_layer"


@dataclass(frozen=True, slots=True)
class Prefix:
    """``strip`` of an adapter's names stands for ``add`` of the checkpoint's."""

    strip: str = ""
    add: str = ""

    def of(self, module: str) -> str | None:
        """The name with the other prefix; None for one without it."""
        return self.add + module[len(self.strip) :] if module.startswith(self.strip) else None

    @property
    def words_in_common(self) -> int:
        """How many parts of a name both have, but for the one that says nothing."""
        return len((set(self.strip.split(".")) & set(self.add.split("."))) - {"model", ""})


@dataclass(frozen=True, slots=True)
class Named:
    """What a module of an adapter is: some checkpoint tensors, one of them, or all of them one below the other.

    ``name`` is the module's in the checkpoint. ``rows_of`` says that the tensors are stacked in the module, whose name
    is then that of the model which serves.
    """

    name: str
    tensors: tuple[str, ...]
    rows_of: bool = False


class AdapterNames:
    """Finds the modules of one adapter in a map.

    A module is the checkpoint tensor ``<module>.weight``; or tensors ``<module>.<parameter>``, of which its shape says
    which; or a stack of experts ``<module>.<parameter>``; or the model's own ``<module>.weight``, where that is made
    of whole checkpoint tensors one below the other.
    """

    def __init__(
        self,
        maps: Sequence[CheckpointMap],
        modules: Iterable[str],
        source: str,
        stacks: Mapping[str, ExpertStack] | None = None,
    ) -> None:
        """Names of the adapter may have other prefixes than the checkpoint's: one, or one for each part of a model.

        Of several that would do for a part, the one that has most words in common with the adapter's is meant.

        Args:
            maps: of all ranks, as one that holds only padding of a parameter does not say what it is.
            stacks: parameters that experts are to PEFT. Their module goes by the served model's name, too, or by any
                that is alike but for what is between its number and its last part, where a layer has one mixture.

        Raises:
            UnknownModulesError: some modules are nothing in the map.
            AdapterFormatError: several prefixes would do.
        """
        found = maps[0]
        self._maps, self._map, self._source = maps, found, source
        self._leaves: dict[str, list[str]] = {}
        for name in (one for one, info in found.shapes.items() if len(info.shape) > 1):
            self._leaves.setdefault(name.rpartition(".")[0], []).append(name)
        modules = sorted({plain(module) for module in modules})
        self._stacked(modules, stacks or {})
        own = {name.removesuffix(".weight") for name in found.parameters if name.endswith(".weight")}
        self._known = sorted(own | set(self._leaves))
        self._prefixes = self._prefix_of_each(modules)

    def find(self, module: str) -> Named:
        """What ``module`` is, which the constructor has found to be something.

        Raises:
            AdapterFormatError: it is fused of tensors in an order that cannot be told.
        """
        name = self._prefixes[plain(module)].of(plain(module))
        assert name is not None
        if f"{name}.weight" in self._map.shapes:
            return Named(name, (f"{name}.weight",))
        if name in self._leaves:
            return Named(name, tuple(self._leaves[name]))
        return Named(name, self._members(name), True)

    def tensor_of(self, module: str, parameter: str = "weight") -> str | None:
        """The checkpoint tensor that a parameter of a module holds, also of one without an adapter; None if none is.

        One that no rank holds as it was does not count: the model may hold another under its name, as tied heads do.
        """
        for way in dict.fromkeys((*self._prefixes.values(), Prefix(), *self._ways(plain(module)))):
            name = f"{way.of(plain(module))}.{parameter}"
            if name in self._map.shapes and not all(name in one.unmoved for one in self._maps):
                return name
            if name in self._map.parameters and len(self._of_model(name).tensors) == 1:
                return self._of_model(name).tensors[0]
        return None

    def _prefix_of_each(self, modules: Sequence[str]) -> dict[str, Prefix]:
        """Of each module, one for all of them if that does."""
        common = self._prefix_of(modules)
        if common is not None:
            return dict.fromkeys(modules, common)
        parts: dict[str, list[str]] = {}
        for module in modules:
            parts.setdefault(_part(module), []).append(module)
        prefixes = {part: self._prefix_of(some) for part, some in parts.items()}
        unknown = [module for part, some in parts.items() if prefixes[part] is None for module in some]
        if unknown:
            nearest = get_close_matches(unknown[0], self._known, n=len(self._known), cutoff=0.0)
            raise UnknownModulesError(repr(self._source), unknown, nearest)
        return {module: one for part, some in parts.items() for module in some if (one := prefixes[part]) is not None}

    def _prefix_of(self, modules: Sequence[str]) -> Prefix | None:
        """One that does for all of the modules; None if there is none."""
        known = set(self._known)
        unknown = [module for module in modules if module not in known]
        if not unknown:
            return Prefix()
        ways = [way for way in self._ways(unknown[0]) if all(way.of(module) in known for module in modules)]
        ways = [way for way in ways if way.words_in_common == max(one.words_in_common for one in ways)]
        meant = {tuple(self._tensors(way, module) for module in modules) for way in ways}
        if len(meant) > 1:
            could = " or ".join(repr(way.of(unknown[0])) for way in ways)
            raise AmbiguousAdapterError(self._source, f"module {unknown[0]!r} could be {could} of the checkpoint")
        of_checkpoint = (way for way in ways if all(way.of(module) in self._leaves for module in modules))
        return next(of_checkpoint, ways[0] if ways else None)

    def _tensors(self, way: Prefix, module: str) -> tuple[str, ...]:
        """The checkpoint tensors that a module is under a prefix: model and checkpoint may call them otherwise."""
        name = way.of(module) or ""
        return tuple(self._leaves.get(name) or self._of_model(f"{name}.weight").tensors)

    def _ways(self, module: str) -> list[Prefix]:
        """Prefixes under which ``module`` is in the map; what is stripped has no number.

        Two parts of a name are left, or one where nothing is stripped, or by a prefix that has a word in common.
        """
        parts = module.split(".")
        ways: list[Prefix] = []
        for count in range(len(parts)):
            if ways or any(part.isdigit() for part in parts[:count]):
                break
            strip, rest = "".join(part + "." for part in parts[:count]), ".".join(parts[count:])
            found = [Prefix(strip, name.removesuffix(rest)) for name in self._known if _ends(name, rest)]
            sure = count in (0, *range(len(parts) - 1))
            ways = [way for way in found if sure or way.words_in_common]
        return ways

    def _stacked(self, given: Sequence[str], stacks: Mapping[str, ExpertStack]) -> None:
        """Has the modules of stacks known by the names of the checkpoint, of the model that serves, and of a file."""
        first = {stack.members[0][0]: name for name, stack in stacks.items()}
        modules = {name: {name.rpartition(".")[0]} for name in stacks}
        for held, parameter in ((held, one) for found in self._maps for held, one in found.parameters.items()):
            for name in {first[piece.tensor] for piece in parameter.pieces if piece.tensor in first}:
                last = name.split(".")[-2]
                before, there, _ = f".{held}".rpartition(f".{last}.")
                modules[name] |= {f"{before}.{last}"[1:]} if there else set()
        layers = Counter(_ends_of(mixture) for mixture in {name.rpartition(".")[0] for name in stacks})
        unknown = [one for one in given if one not in self._leaves]
        for name, some in modules.items():
            here = _ends_of(name.rpartition(".")[0])
            alike = {one for one in unknown if _ends_of(one) == here} if layers[here] == 1 else set()
            for module in some | alike:
                self._leaves.setdefault(module, []).append(name)

    def _of_model(self, parameter: str) -> ParameterMap:
        """A parameter on the rank that holds the most of it."""
        return max((one.parameters[parameter] for one in self._maps), key=lambda one: len(one.tensors))

    def _members(self, name: str) -> tuple[str, ...]:
        """The checkpoint tensors that one below the other are the model's ``<name>.weight``."""
        parameter = self._of_model(f"{name}.weight")
        pieces = sorted(parameter.pieces, key=lambda one: one.target.start)
        plain = all(
            piece.target.is_slice and piece.rows.is_slice and not piece.transposed and not piece.first_column
            for piece in pieces
        )
        alike = len({self._map.shapes[piece.tensor].columns for piece in pieces}) == 1
        if not (plain and alike and len(pieces) == len(parameter.tensors)):
            raise AdapterFormatError(
                self._source,
                f"module {name!r} is no tensor of the checkpoint, and the model makes its weight of "
                f"{', '.join(parameter.tensors) or 'none'} in an order that does not say how they would be fused; "
                "adapt these",
            )
        return parameter.tensors


def plain(module: str) -> str:
    """A module without the wrappers that PEFT nests around one with several parameters."""
    return module.replace(_NESTED, "")


def _part(module: str) -> str:
    """The part of a model that a module is in: its name as far as the first number."""
    parts = module.split(".")
    numbers = [place for place, part in enumerate(parts) if part.isdigit()]
    return ".".join(parts[: numbers[0]]) if numbers else module


def _ends_of(module: str) -> tuple[str, str]:
    """A name as far as its first number, and its last part."""
    before = _part(module)
    number = module[len(before) :].split(".")[1:2]
    return ".".join([before, *number]), module.rpartition(".")[2]


def _ends(name: str, rest: str) -> bool:
    return name == rest or name.endswith(f".{rest}")
