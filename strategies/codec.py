"""Specs to plain data and back: dictionaries of numbers, strings and lists, with a format version at the top."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from typing import Any, TypeVar

import cattrs
from cattrs.strategies import configure_union_passthrough

FORMAT_VERSION = 1
T = TypeVar("T")

_converter = cattrs.Converter(forbid_extra_keys=True, detailed_validation=False)
configure_union_passthrough(bool | int | str | None, _converter)


class CaseFormatError(ValueError):
    """Data that is not a case of the format this release reads."""


class ImpossibleCase(CaseFormatError):
    """A case that contradicts itself; the message has the values, and what would be possible."""


class Named(enum.Enum):
    """An enumeration whose members' ``repr`` is how they are written."""

    # Members are singletons: their identity is a hash, and one that costs no call of Python.
    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return f"{type(self).__name__}.{self.name}"


class Spec:
    """A frozen dataclass whose ``repr`` is the shortest constructor call that makes it."""

    __slots__ = ()

    def __repr__(self) -> str:
        shown = [
            f"{field.name}={getattr(self, field.name)!r}"
            for field in dataclasses.fields(self)  # type: ignore[arg-type]
            if getattr(self, field.name) != field.default
        ]
        return f"{type(self).__name__}({', '.join(shown)})"


def to_dict(spec: Spec) -> dict[str, Any]:
    """``spec`` as JSON-ready data, with its ``format_version``."""
    return {"format_version": FORMAT_VERSION, **_converter.unstructure(spec)}


def from_dict(data: Mapping[str, Any], cls: type[T]) -> T:
    """The inverse of `to_dict`.

    Raises:
        CaseFormatError: another format version, a missing, unknown or ill-typed field.
        ImpossibleCase: its parts contradict each other.
    """
    if not isinstance(data, Mapping):
        raise CaseFormatError(f"a {cls.__name__} is written as an object, received {type(data).__name__}")
    given = data.get("format_version")
    if given != FORMAT_VERSION:
        raise CaseFormatError(
            f"format_version is {given!r}, this release reads {FORMAT_VERSION}: "
            "replay the file with the release that wrote it, or draw the failure again"
        )
    fields = {key: value for key, value in data.items() if key != "format_version"}
    try:
        return _converter.structure(fields, cls)
    except ImpossibleCase:
        raise
    except Exception as error:
        raise CaseFormatError(f"not a {cls.__name__}: {error}") from error
