"""The implementation that ``--impl`` names: built in, an entry point, or an importable attribute."""

from __future__ import annotations

import importlib
from difflib import get_close_matches
from importlib.metadata import entry_points

import pytest

from conformance.implementations.protocol import REQUIRED_METHODS, Implementation, LayerLibrary, MissingPrerequisite

ENTRY_POINTS = "lora_compat.implementations"
BUILT_IN = ("reference", "vllm", "peft")


def implementation_named(
    impl: str, layers: str = "lora_compat", device: str = "cpu", *, prepare: bool = True
) -> Implementation:
    """The implementation that ``--impl`` names.

    Its layers are prepared, which may take many seconds; without ``prepare`` it can only say who it is.

    Raises:
        pytest.UsageError: it is unknown, lacks a method, or lacks something to be installed.
    """
    try:
        implementation = _found(impl, layers, device)
        missing = [name for name in REQUIRED_METHODS if not callable(getattr(implementation, name, None))]
        if missing:
            raise pytest.UsageError(
                f"--impl {impl}: {type(implementation).__name__} lacks {', '.join(missing)}; "
                f"an implementation has {', '.join(REQUIRED_METHODS)} "
                "(derive from conformance.implementations.protocol.Implementation)"
            )
        implementation.identity()
        if prepare:
            implementation.layers.prepare()
    except MissingPrerequisite as error:
        raise pytest.UsageError(f"--impl {impl}: {error}") from None
    return implementation


def _found(impl: str, layers: str, device: str) -> Implementation:
    if impl == "reference":
        from conformance.implementations.reference import ReferenceImplementation

        return ReferenceImplementation(_layers(layers, device))
    if impl == "vllm":
        from conformance.implementations.vllm import VllmImplementation

        return VllmImplementation(device)
    if impl == "peft":
        from conformance.implementations.peft import PeftImplementation

        return PeftImplementation()
    registered = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
    if impl in registered:
        return _instance(impl, registered[impl].load())
    module, colon, attribute = impl.partition(":")
    if not colon:
        known = (*BUILT_IN, *sorted(registered))
        raise pytest.UsageError(
            f"--impl {impl!r} is unknown: give one of {', '.join(known)}, or package.module:attribute"
            + did_you_mean(impl, known)
        )
    try:
        return _instance(impl, getattr(importlib.import_module(module), attribute))
    except (ImportError, AttributeError) as error:
        raise pytest.UsageError(f"--impl {impl}: {error}; give an importable package.module:attribute") from None


def _layers(name: str, device: str) -> LayerLibrary:
    if name == "vllm":
        from conformance.implementations.vllm.layers import VllmLayers

        return VllmLayers(device)
    from conformance.implementations.reference import LoraCompatLayers

    return LoraCompatLayers()


def _instance(given: str, found: object) -> Implementation:
    if not isinstance(found, type):
        return found  # type: ignore[return-value]
    try:
        instance: Implementation = found()
    except TypeError as error:
        raise pytest.UsageError(
            f"--impl {given}: {error}; an implementation has {', '.join(REQUIRED_METHODS)} "
            "and is built without arguments"
        ) from None
    return instance


def did_you_mean(given: str, accepted: tuple[str, ...]) -> str:
    """The end of an error about ``given``, where it is close to something accepted."""
    close = get_close_matches(given, accepted, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
