"""What is to be certified: from ``package.module:Class``, a module or a package to linear layer classes."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pkgutil
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from torch import nn

from conformance.certification.errors import (
    MissingRecipeError,
    NoLinearLayerError,
    TargetImportError,
    TargetNotFoundError,
)
from conformance.certification.sources import modules_with_linear_classes
from conformance.subjects.constructors import recipe_of
from conformance.subjects.recipes import Recipe, load_recipe, registered_recipe
from lora_compat.families import Family, registry
from strategies.libraries import Library
from strategies.subclasses import SubclassSpec


@dataclass(frozen=True, slots=True)
class Found:
    """A class to certify: its path, and the recipe that builds it, None where that is inferred."""

    path: str
    cls: type[nn.Module]
    family: Family
    base: type[nn.Module]
    recipe: str | None

    @property
    def library(self) -> Library:
        """Whose base layers it derives from."""
        return Library.VLLM if self.base.__module__.startswith("vllm.") else Library.LORA_COMPAT

    @property
    def built_by(self) -> Recipe:
        """Its recipe, loaded or inferred.

        Raises:
            RecipeNotFoundError: the one given does not exist.
            MissingRecipeError: none is given, and the constructor asks for what nobody can know.
        """
        if self.recipe:
            return load_recipe(self.recipe)
        found = recipe_of(SubclassSpec(depth=1, target=self.path))
        if found.missing:
            names = ", ".join(map(repr, found.missing))
            raise MissingRecipeError(self.path, self.cls, self.family, f"its constructor asks for {names}")
        return found


def find(given: str, recipe: str | None = None) -> list[Found]:
    """The linear classes that ``given`` names, one or all of a module or package, in the order of their paths.

    Raises:
        SubjectError: nothing is named, its import fails, or it is no linear layer.
    """
    module, colon, name = given.partition(":")
    if colon:
        return [_one(given, _imported(given, module), name, recipe)]
    top = _imported(given, given)
    # The sources say which modules define linear classes; importing all of a large package takes minutes.
    modules = [top]
    for inner in modules_with_linear_classes(top):
        imported = _imported_in_company(inner)
        if imported is not None:
            modules.append(imported)
    found = {one.path: one for each in modules for one in _in_module(each)}
    if not found:
        raise NoLinearLayerError(given, "defines no subclass of a linear layer")
    return [found[path] for path in sorted(found)]


def mentions_vllm(given: str) -> bool:
    """Whether the source of the module that ``given`` names has to do with vLLM; nothing is imported but packages."""
    if "" not in sys.path:
        sys.path.insert(0, "")  # as `python -m` does, so that a module next to the user is found
    module = given.partition(":")[0]
    if module.partition(".")[0] == "vllm":
        return True
    try:
        spec = importlib.util.find_spec(module)
        return spec is not None and spec.origin is not None and "vllm" in Path(spec.origin).read_text(encoding="utf-8")
    except (ImportError, ValueError, OSError):
        return False  # `find` says what is wrong with it


def _imported_in_company(module: str) -> ModuleType | None:
    """``module``, after its siblings where it cannot be imported first; None where it cannot be imported here."""
    try:
        return importlib.import_module(module)
    except Exception:
        parent = sys.modules.get(module.rpartition(".")[0])
    for sibling in pkgutil.iter_modules(getattr(parent, "__path__", ()), f"{module.rpartition('.')[0]}."):
        with suppress(Exception):
            importlib.import_module(sibling.name)
    with suppress(Exception):  # another platform's kernels, say
        return importlib.import_module(module)
    return None


def _imported(given: str, module: str) -> ModuleType:
    try:
        return _imported_in_company(module) or importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and (module == error.name or module.startswith(error.name + ".")):
            raise TargetNotFoundError(given, f"there is no module {error.name!r}") from error
        raise TargetImportError(given, error) from error
    except Exception as error:
        raise TargetImportError(given, error) from error


def _one(given: str, module: ModuleType, name: str, recipe: str | None) -> Found:
    found: object = module
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            valid = [one.path.partition(":")[2] for one in _in_module(module)]
            raise TargetNotFoundError(given, f"module {module.__name__!r} has no {name!r}", valid) from None
    if not isinstance(found, type):
        raise NoLinearLayerError(given, f"is a {type(found).__name__}, no class")
    entry = registry.lookup(found)
    if entry is None:
        raise NoLinearLayerError(given, f"derives from {', '.join(base.__name__ for base in found.__mro__[1:-1])}")
    return Found(given, found, entry[1], entry[0], recipe or registered_recipe(given))


def _in_module(module: ModuleType) -> list[Found]:
    """The proper linear subclasses defined in ``module``."""
    found = []
    for cls in vars(module).values():
        if not (inspect.isclass(cls) and issubclass(cls, nn.Module) and cls.__module__ == module.__name__):
            continue
        entry = registry.lookup(cls)
        if entry is not None and entry[0] is not cls:
            path = f"{module.__name__}:{cls.__qualname__}"
            found.append(Found(path, cls, entry[1], entry[0], registered_recipe(path)))
    return found
