"""``lora-compat certify-model``: runs chapter MODEL of the contract on model types, architectures or checkpoints."""

from __future__ import annotations

import argparse
from typing import Any

from conformance.cli.certify import EPILOG, add_options, exit_code, pytest_arguments


def add_parser(subparsers: Any) -> None:
    """Declares the command and its options."""
    parser = subparsers.add_parser(
        "certify-model",
        help="certify a model: base checkpoint + adapter directory = merged checkpoint",
        description="Says whether adapter files reach a model: transformers makes small checkpoints of its type, PEFT "
        "adapters and merged checkpoints, and every module is compared.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "targets",
        nargs="+",
        metavar="TARGET",
        help="a model type of transformers, an architecture of vLLM, a directory with a config.json, "
        "module:Class of a model out of tree, or all",
    )
    parser.add_argument("--impl", help="who serves the models (default: vllm)")
    add_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Certifies; workers are processes even where there is one, so that a model may take its own down with it."""
    given = [option for target in arguments.targets for option in ("--certify-model", target)]
    return exit_code([*pytest_arguments(arguments), *given, "-n", str(arguments.workers)])
