"""The exit codes of ``lora-compat``, all of them."""

from __future__ import annotations

import enum


class Exit(enum.IntEnum):
    """What a command ends with."""

    OK = 0  # all is well: certified, verified, merged, every failure fixed
    FAILED = 1  # the command did its work and the answer is no: not conformant, a failure still there
    ERROR = 2  # something could not be run or read, so nothing is known of it
    USAGE = 4  # the command line is wrong; one line says what was given and what would work
