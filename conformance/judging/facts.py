"""What a clause saw go wrong, and where, as data; its words are made here and nowhere read."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, get_args

from conformance.judging.model_facts import Added, Lost

AFTER_A_RESET = ", after its slot was reset"


class Aspect(enum.Enum):
    """What of a result, or of who is there, is not what it should be."""

    VALUE = "value"  # one element, by more than the allowed error
    BITS = "bits"  # one element, which must be equal to the bit
    SHAPE = "shape"  # of one output, of any dtype
    COUNT = "count"  # how many tensors a forward returns
    FORM = "form"  # of a result that must be another's to the bit: dtype, shape, or how many tensors
    RESULT = "result"  # what a call returns, as a whole
    ATTRIBUTE = "attribute"  # read through the LoRA layer
    OBJECT = "object"  # found by a search
    STATE = "state"  # who is registered and active
    RANK = "rank"  # the warm-up's


@dataclass(frozen=True, slots=True)
class Place:
    """Where it was seen: as much of it as has a meaning.

    ``call`` is a call of a program: its number from one on, its method, and the adapter or batch from one on.
    ``tokens`` are those that an output's rows are counted among; ``setting`` says how the case was run, where that is
    not how it is written. ``role`` is that of a whole model's module, `FilePair.role`, which is told apart by it and
    not said.
    """

    call: tuple[int, str, int] | None = None
    rank: int | None = None
    ranks: int | None = None
    module: str = ""
    tokens: tuple[int, ...] | None = None
    setting: str = ""
    role: str = ""

    def __str__(self) -> str:
        parts = []
        if self.call is not None:
            number, method, argument = self.call
            parts.append(f"call {number}, {method}({argument})")
        if self.rank is not None:
            parts.append(f"rank {self.rank}" + (f" of {self.ranks}" if self.ranks else ""))
        parts += [self.module] if self.module else []
        parts += [f"tokens {list(self.tokens)}"] if self.tokens is not None else []
        return ", ".join([*parts, *([self.setting] if self.setting else [])])


@dataclass(frozen=True, slots=True)
class Difference:
    """Something is ``actual`` and should be ``expected``.

    ``output`` is the number of the tensor among those returned, ``element`` the place in it; ``name`` is that of an
    attribute or parameter; ``allowed`` is the error bound; ``after`` says what was done before.
    """

    aspect: Aspect
    actual: Any
    expected: Any
    output: int | None = None
    element: tuple[int, ...] = ()
    name: str = "out"
    allowed: float | None = None
    after: str = ""

    def __str__(self) -> str:
        seen, right = (_told(self.aspect, one) for one in (self.actual, self.expected))
        number = "" if self.output is None else self.output
        what = {
            Aspect.VALUE: f"{self.name}{number}[{_listed(self.element)}]={seen}",
            Aspect.BITS: f"{self.name}{number}[{_listed(self.element)}]={seen}",
            Aspect.SHAPE: f"{self.name}{number}.shape={seen}",
            Aspect.FORM: f"{self.name}{number} is {seen}",
            Aspect.COUNT: f"{seen} tensors returned",
            Aspect.RESULT: f"returned {seen}",
            Aspect.ATTRIBUTE: f"layer.{self.name}={seen}",
            Aspect.OBJECT: f"found {seen}",
            Aspect.STATE: seen,
            Aspect.RANK: f"rank {seen}",
        }[self.aspect]
        allowed = "" if self.allowed is None else f" (allowed error {self.allowed:g})"
        bits = ", to the bit" if self.aspect is Aspect.BITS else ""
        return f"{what}, but should be {right}{allowed}{bits}{self.after}"

    @property
    def of_shape(self) -> bool:
        """Whether the result has another form, so that no numbers can be compared."""
        return self.aspect in (Aspect.SHAPE, Aspect.COUNT)

    @property
    def of_numbers(self) -> bool:
        """Whether something that can be written down differs; of one case, two of them are one mistake."""
        return self.aspect is not Aspect.RESULT


@dataclass(frozen=True, slots=True)
class Raised:
    """An exception of the implementation, or of the class that it wraps.

    ``site`` is the innermost frame of whoever is tested, relative to its package; ``but`` says what is wrong with
    raising it, where it is not the raising itself.
    """

    type: str
    text: str
    site: str = ""
    but: str = ""

    def __str__(self) -> str:
        return f"{self.type}: {self.text}{self.but}"


@dataclass(frozen=True, slots=True)
class Unwrapped:
    """A layer that was left as it is."""

    family: str
    subclass: bool
    why: str = ""

    def __str__(self) -> str:
        if self.why:
            return f"refused: {self.why}"
        return f"a {self.family} layer was left unwrapped, {'a subclass' if self.subclass else 'the base class'}"


@dataclass(frozen=True, slots=True)
class Disagreement:
    """Two ranks that issued different collectives, each told with its call site; or one that issued none."""

    first: str
    second: str

    def __str__(self) -> str:
        return f"{self.first}; {self.second}"


@dataclass(frozen=True, slots=True)
class Remark:
    """A sentence: there is nothing in it that anybody counts with."""

    text: str

    def __str__(self) -> str:
        return self.text


Fact = Difference | Raised | Added | Lost | Unwrapped | Disagreement | Remark
_KINDS: dict[str, type[Fact]] = {cls.__name__: cls for cls in get_args(Fact)}


@dataclass(frozen=True, slots=True)
class Sighting:
    """A fact at its place."""

    fact: Fact
    place: Place = Place()

    def __str__(self) -> str:
        return ": ".join(filter(None, (str(self.place), str(self.fact))))

    @property
    def after_a_reset(self) -> bool:
        """Whether slots were reset before."""
        return isinstance(self.fact, Difference) and self.fact.after == AFTER_A_RESET

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data; what says nothing is left out."""
        data: dict[str, Any] = {"kind": type(self.fact).__name__, **_said(self.fact)}
        place = _said(self.place)
        return data | ({"place": place} if place else {})

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Sighting:
        """The inverse of `to_dict`."""
        given = {name: _frozen(value) for name, value in data.items() if name not in ("kind", "place")}
        if "aspect" in given:
            given["aspect"] = Aspect(given["aspect"])
        place = {name: _frozen(value) for name, value in data.get("place", {}).items()}
        return cls(_KINDS[data["kind"]](**given), Place(**place))


def without_addresses(value: object) -> str:
    """What is said of an object: its repr, or its class where the repr is an address."""
    told = repr(value)
    return f"a {type(value).__name__}" if f"{id(value):x}" in told.lower() else told


def _said(one: Fact | Place) -> dict[str, Any]:
    data = asdict(one)
    said = {f.name: data[f.name] for f in fields(one) if data[f.name] != f.default}
    return {name: _plain(value) for name, value in said.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    return value.value if isinstance(value, Aspect) else value


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def _listed(element: tuple[int, ...]) -> str:
    return ", ".join(map(str, element))


def _told(aspect: Aspect, value: Any) -> str:
    if aspect is Aspect.STATE:
        registered, active = (list(one) for one in value)
        return f"registered {registered}, active {active}"
    return f"{value:g}" if isinstance(value, float) else str(value)
