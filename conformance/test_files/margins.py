"""How wide the lines of a regression file are."""

from __future__ import annotations

LONGEST = 88  # what vLLM's own tests keep to
INDENT = "    "
WIDTH = LONGEST - len(INDENT)  # of a line in a function's body, without its indentation
