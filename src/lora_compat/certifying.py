"""`certify`: hands a class to whatever certification suite is installed; this package knows none."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

ENTRY_POINTS = "lora_compat.certifiers"


def certify(subject: type | str, **options: Any) -> str:
    """Certifies a linear layer class with the suite registered under the entry point group `ENTRY_POINTS`.

    Args:
        subject: the class, or ``package.module:Class``.
        options: the suite's own; see ``conformance.certify``.

    Raises:
        ImportError: no suite is installed.
        AssertionError: the class is not certified; the message is the whole screen.
    """
    found = sorted(entry_points(group=ENTRY_POINTS), key=lambda point: point.name)
    if not found:
        raise ImportError(
            f"no certification suite is registered under {ENTRY_POINTS!r}: pip install 'lora-compat[conformance]'"
        )
    screen: str = found[0].load()(subject, **options)
    return screen
