"""`certify`: hands a class to whatever certification suite is installed; this package knows none."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

ENTRY_POINTS = "lora_compat.certifiers"


def certify(subject: type | str, **options: Any) -> Any:
    """Certifies a linear layer class with the suite registered under the entry point group `ENTRY_POINTS`.

    Args:
        subject: the class, or ``package.module:Class``.
        options: the suite's own; see ``conformance.certify``.

    Returns:
        The suite's result: its ``str`` is the screen, ``verdicts`` has each clause's, ``certificate`` the document.

    Raises:
        ImportError: no suite is installed.
        AssertionError: the class is not certified; the message is the whole screen.
        ValueError: the class or an option cannot be used; the message says what would work.
    """
    found = sorted(entry_points(group=ENTRY_POINTS), key=lambda point: point.name)
    if not found:
        raise ImportError(
            f"no certification suite is registered under {ENTRY_POINTS!r}: pip install 'lora-compat[conformance]'"
        )
    return found[0].load()(subject, **options)
