"""What is said of a class and its failures, in the terminal and in the report alike."""

from __future__ import annotations

from collections.abc import Mapping

from conformance.certification.outcome import Outcome
from conformance.judging.measuring import Evidence
from conformance.judging.verdicts import Verdict


def described(outcome: Outcome) -> str:
    """The class, and what was found out about it."""
    target = outcome.target
    if target is None:
        return outcome.path
    facts = [target.family.value, "own forward" if target.subclass.changes_forward else "family's forward"]
    facts += [f"{name}={value} only" for name, value in target.fixed.items() if value]
    if target.subclass.recipe:
        facts.append(f"recipe {target.subclass.recipe}")
    return f"{outcome.path} ({', '.join(facts)})"


def verdict(outcome: Outcome) -> str:
    """The conclusion, what stands in its way, and whether the class is to blame."""
    red, own = outcome.red, outcome.own_red
    if not red:
        return ": refused ".join(filter(None, [outcome.conclusion.value, shares(outcome)]))
    said = f"{outcome.conclusion.value}: {', '.join(red)}"
    if not own:
        return f"{said}. None of them is the class's doing: its family's base class fails them too."
    if len(own) < len(red):
        return f"{said}. Of these its family's base class keeps {', '.join(own)}."
    if outcome.failures and all(failure.on_base is False for failure in outcome.failures):
        return f"{said}. Its family's base class keeps them."
    return said


def shares(outcome: Outcome) -> str:
    """How many cases of each clause were refused that passes in the others; empty where none was."""
    return ", ".join(f"{clause} {share(outcome.results[clause].counts)}" for clause in outcome.refused_in_part)


def share(counts: Mapping[str, int]) -> str:
    """The refused ones of the cases that were served or refused."""
    refused = counts[Verdict.REFUSED.value]
    return f"{refused} of {refused + counts[Verdict.PASS.value]}"


def power(evidence: Evidence) -> str:
    """The smallest deviation that this run would have rejected."""
    parts = []
    if evidence.exact:
        parts.append(f"one unit in the last place of one element ({evidence.exact} exact cases)")
    if evidence.rounded:
        parts.append(f"{evidence.smallest:.1e} of an element's magnitude ({evidence.rounded} rounded cases)")
    return "would have rejected: " + (", or ".join(parts) or "nothing; no numbers were compared")


def short(path: str) -> str:
    """The class's name, after the first and last part of its module."""
    module, _, name = path.partition(":")
    parts = module.split(".")
    return f"{parts[0]}…{parts[-1]}:{name}" if len(parts) > 2 else path
