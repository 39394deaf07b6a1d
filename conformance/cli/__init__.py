"""The command ``lora-compat``: a module for each subcommand, with ``add_parser(subparsers)`` and ``run(args) -> int``.

Exit codes are those of `conformance.suite.exits.Exit`. A command raises `UsageError` for a wrong command line.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
from collections.abc import Sequence
from typing import NoReturn

import pytest

from conformance.suite.exits import Exit

UsageError = pytest.UsageError


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def parser() -> argparse.ArgumentParser:
    """The command line, with the subcommands that there are."""
    top = _Parser(prog="lora-compat", description="LoRA on vLLM-style linear layers: conformance, by case.")
    subparsers = top.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_Parser)
    for found in sorted(module.name for module in pkgutil.iter_modules(__path__)):
        command = importlib.import_module(f"{__name__}.{found}")
        if hasattr(command, "add_parser"):
            command.add_parser(subparsers)
            subparsers.choices[found.replace("_", "-")].set_defaults(run=command.run)
    top.epilog = "exit codes: " + ", ".join(f"{code.value} {code.name.lower()}" for code in Exit)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    try:
        args = parser().parse_args(arguments)
        return int(args.run(args))
    except UsageError as error:
        print(f"lora-compat: error: {error}", file=sys.stderr)
        return Exit.USAGE
    except BrokenPipeError:
        return Exit.ERROR
