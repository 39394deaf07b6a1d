"""``lora-compat certify``: runs the suite on a class, or on every linear class of a module or package."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import pytest

import conformance

_PASSED_ON = (
    *("impl", "device", "profile", "max_examples", "shards", "shard"),
    *("certificate", "report", "baseline", "write_regressions"),
)
EPILOG = """\
exit codes: 0 certified (or known failures only, with --baseline), 1 not certified or in part, 2 the harness failed,
            4 usage
"""


def add_parser(subparsers: Any) -> None:
    """Declares the command and its options."""
    parser = subparsers.add_parser(
        "certify",
        help="certify an existing linear layer class",
        description="Runs the conformance suite on existing linear layers, and says whether LoRA works on them.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("targets", nargs="+", metavar="TARGET", help="package.module:MyLinear, a module or a package")
    parser.add_argument("--impl", help="who wraps it (default: vllm for vLLM's classes, else the reference)")
    parser.add_argument("--recipe", metavar="MODULE:FUNCTION", help="the function that builds the class")
    add_options(parser)
    parser.set_defaults(run=run)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declares the options that classes and models have in common."""
    parser.add_argument("--device", default="cpu", help="where the layers live: cpu (default) or cuda")
    parser.add_argument("--profile", default="quick", help="cases per clause: quick 20 (default), default, thorough")
    parser.add_argument("--max-examples", help="cases per clause, whatever the profile says")
    parser.add_argument("--shards", metavar="N", help="into how many tests each clause is split")
    parser.add_argument("--shard", metavar="I/N", help="run the I-th of N parts; lora-compat merge joins them")
    parser.add_argument("--seed", default="0", help="the integer all draws of the run come from")
    parser.add_argument("--workers", type=int, default=1, help="processes (default 1)")
    parser.add_argument("--certificate", metavar="FILE", help="write the certificate, as JSON")
    parser.add_argument("--report", metavar="FILE.html", help="write the report, one HTML page")
    parser.add_argument("--write-regressions", metavar="DIR", help="where failures are stored and written as tests")
    parser.add_argument("--no-proof", action="store_true", help="write those tests without running them")
    parser.add_argument("--baseline", metavar="FILE", help="known failures that do not fail the run")
    parser.add_argument("--update-baseline", action="store_true", help="write the failures of this run to --baseline")


def run(arguments: argparse.Namespace) -> int:
    """Certifies; the exit code as in the command's help."""
    given = [option for target in arguments.targets for option in ("--certify", target)]
    given += ["--recipe", arguments.recipe] if arguments.recipe is not None else []
    workers = ["-n", str(arguments.workers)] if arguments.workers > 1 else []
    return exit_code([*pytest_arguments(arguments), *given, *workers])


def exit_code(arguments: list[str]) -> int:
    """Runs pytest, and what its exit code means here."""
    code = int(pytest.main(arguments))
    return 2 if code == pytest.ExitCode.INTERNAL_ERROR else code


def pytest_arguments(arguments: argparse.Namespace) -> list[str]:
    """The options of a pytest run that certifies, free of whatever configuration is around."""
    suite = str(Path(conformance.__file__).parent)
    given = [suite, "-c", os.devnull, f"--rootdir={suite}", "-p", "no:cacheprovider"]
    for name in _PASSED_ON:
        value = getattr(arguments, name)
        if value is not None:
            given += [f"--{name.replace('_', '-')}", value]
    given += ["--conformance-seed", arguments.seed]
    given += ["--update-baseline"] if arguments.update_baseline else []
    given += ["--no-proof"] if arguments.no_proof else []
    return given
