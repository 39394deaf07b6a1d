"""``lora-compat certify-model``: runs chapter MODEL of the contract on model types, architectures or checkpoints."""

from __future__ import annotations

import argparse
from typing import Any

from conformance.cli.certify import EPILOG, add_options, exit_code, pytest_arguments
from conformance.contract import MODEL_CLAUSES
from conformance.suite.options import one_of


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
    parser.add_argument("--time-limit", metavar="SECONDS", help="how long one case may take (default: 120)")
    parser.add_argument("--resume", metavar="DIR", help="keep results there, and do not run again what is there")
    parser.add_argument(
        "--clause",
        action="append",
        default=[],
        metavar="CLAUSE",
        help="ask this clause alone, such as MODEL-2 (repeatable); without the others nothing is certified",
    )
    parser.add_argument("--as-met", action="store_true", help="report failures as they were met, not made plain")
    add_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Certifies; workers are processes even where there is one, so that a model may take its own down with it."""
    given = [option for target in arguments.targets for option in ("--certify-model", target)]
    if arguments.time_limit is not None:
        given += ["--time-limit", arguments.time_limit]
    given += ["--resume", arguments.resume] if arguments.resume is not None else []
    given += ["--as-met"] if arguments.as_met else []
    asked = [one_of("--clause", clause, MODEL_CLAUSES) for clause in arguments.clause]
    given += ["-m", " or ".join(f"clause(id='{clause}')" for clause in asked)] if asked else []
    return exit_code([*pytest_arguments(arguments), *given, "-n", str(arguments.workers)])
