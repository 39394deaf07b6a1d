"""What a certificate holds for: the class's source, and the versions it was run with."""

from __future__ import annotations

import hashlib
import inspect
import platform
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import FunctionType

import torch

import conformance
import lora_compat
import strategies
from conformance.implementations.vllm.models.registry import source_file
from conformance.subjects.recipes import load_class, load_recipe
from conformance.subjects.subject import Subject
from lora_compat.families import registry

_PACKAGES = ("torch", "vllm", "triton", "transformers", "peft", "hypothesis")


def versions(subject: Subject) -> dict[str, str]:
    """Versions of everything that takes part; ``none`` where it is not installed."""
    found = {"python": platform.python_version(), "platform": f"{platform.system()} {platform.machine()}"}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "none"
    found["lora-compat"] = lora_compat.__version__  # of the source that runs, which need not be installed
    found["gpu"] = _gpu() if torch.cuda.is_available() else "none"
    return found | {f"identity.{name}": value for name, value in subject.identity().items()}


@cache
def _gpu() -> str:
    """The GPU's name, asked in a process of its own: one that has asked CUDA can have no forks that use it."""
    ask = "import torch; print(torch.cuda.get_device_name())"
    return subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True).stdout.strip()


def suite_hash() -> str:
    """SHA-256 over the sources of the suite and of the reference."""
    return folders_hash(*(Path(package.__path__[0]) for package in (lora_compat, strategies, conformance)))


def folders_hash(*folders: Path) -> str:
    """SHA-256 over the Python files and tables in folders and below, their names included."""
    digest = hashlib.sha256()
    for folder in folders:
        for file in sorted(one for one in folder.rglob("*.*") if one.suffix in (".py", ".toml")):
            digest.update(f"{folder.name}/{file.relative_to(folder)}\n".encode() + file.read_bytes())
    return digest.hexdigest()


def source_hash(path: str, recipe: str | None = None) -> str:
    """SHA-256 over the source of the class, of what it derives from below the family's base, and of its recipe."""
    cls = load_class(path)
    found = registry.lookup(cls)
    base = found[0] if found else object
    digest = hashlib.sha256()
    for ancestor in cls.__mro__:
        if issubclass(base, ancestor):
            break
        digest.update(_source(ancestor))
    if recipe:
        build = load_recipe(recipe).build
        digest.update(inspect.getsource(build).encode())
    return digest.hexdigest()


def model_hash(name: str) -> str:
    """SHA-256 over the sources of the classes that serve a model and that make its checkpoints."""
    # Here, as it takes ten seconds that only models need.
    import transformers

    from conformance.subjects.models.skeletons import Skeleton
    from conformance.subjects.models.types import resolve, served_as

    target = resolve(name)
    made_by = inspect.getsourcefile(
        getattr(transformers, target.implementation) if target.implementation else Skeleton
    )
    entry = served_as(target.architecture)
    served_by = source_file(entry.module) if entry else inspect.getsourcefile(load_class(target.path))
    digest = hashlib.sha256()
    for file in (made_by, served_by):
        digest.update(Path(file).read_bytes() if file else b"")
    return digest.hexdigest()


def class_source(path: str) -> str:
    """The source of the class, or a line that says that there is none."""
    try:
        return inspect.getsource(load_class(path))
    except (OSError, TypeError):
        return f"# {path} has no source file\n"


def _source(cls: type) -> bytes:
    """The class statement, and each method's own source, which may have been put in from elsewhere."""
    methods = [item for _, item in sorted(vars(cls).items()) if isinstance(item, FunctionType)]
    return "\n".join([_text(cls), *map(_text, methods)]).encode()


def _text(item: type | FunctionType) -> str:
    try:
        return inspect.getsource(item)
    except (OSError, TypeError):  # made at run time: its code stands in for the source
        code = getattr(item, "__code__", None)
        return item.__qualname__ if code is None else f"{code.co_code!r} {code.co_consts!r}"
