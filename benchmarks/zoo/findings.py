"""Which of the scripts in docs/findings shows a failure with nothing but vLLM, told by what was seen."""

from __future__ import annotations

from collections.abc import Callable

from conformance.judging.facts import Aspect, Difference, Fact, Raised, Unwrapped

_FOLDER = "../../findings"
_SINGLE = ("column", "row", "qkv")


def _unwrapped(*families: str) -> Callable[[Fact], bool]:
    return lambda fact: isinstance(fact, Unwrapped) and fact.subclass and not fact.why and fact.family in families


def _attribute_error(said: str) -> Callable[[Fact], bool]:
    return lambda fact: isinstance(fact, Raised) and fact.type == "AttributeError" and fact.text.startswith(said)


def _differs(aspect: Aspect, **given: object) -> Callable[[Fact], bool]:
    return lambda fact: (
        isinstance(fact, Difference)
        and fact.aspect is aspect
        and all(getattr(fact, name) == value for name, value in given.items())
    )


# (anomaly, whether a fact is what they show, scripts)
_SHOWN_BY: tuple[tuple[str, Callable[[Fact], bool], tuple[str, ...]], ...] = (
    ("not-wrapped", _unwrapped(*_SINGLE), ("01_subclass_left_unwrapped",)),
    (
        "not-wrapped",
        _unwrapped("merged_column"),
        ("02_merged_subclass_unwrapped_under_tp", "04_three_outputs_fully_sharded"),
    ),
    ("raised", _attribute_error("'NoneType' object has no attribute 'device'"), ("18_weight_is_none",)),
    ("order-dependent", lambda fact: True, ("19_two_classes_claim",)),
    ("weight-stolen", _differs(Aspect.VALUE), ("20_sibling_reads_base_weight",)),
    ("hidden-attribute", _differs(Aspect.ATTRIBUTE, name="output_size"), ("21_geometry_changed_by_wrapping",)),
    ("hidden-attribute", _differs(Aspect.OBJECT, actual="NoneType"), ("24_silent_wrapper_ends_search",)),
    ("raised", _attribute_error("'BareWrapper("), ("24_silent_wrapper_ends_search",)),
)


def shown_by(anomaly: str, fact: Fact) -> str:
    """Links to the scripts, as the end of a line; empty where no script is known to show it."""
    found = [
        f"[{script[:2]}]({_FOLDER}/{script}.py)"
        for kind, shows, scripts in _SHOWN_BY
        if kind == anomaly and shows(fact)
        for script in scripts
    ]
    return f" (shown by {', '.join(found)})" if found else ""
