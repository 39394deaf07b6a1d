"""``lora-compat verify``: whether a certificate still certifies."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from conformance.certification.verification import CertificateError, verify


def add_parser(subparsers: Any) -> None:
    """Declares the command and its options."""
    parser = subparsers.add_parser(
        "verify",
        help="verify a certificate",
        description="Refuses a certificate that is incomplete, altered or not green, or whose class has changed.",
        epilog="exit codes: 0 it certifies, 1 it does not",
    )
    parser.add_argument("certificate", type=Path, help="the file that `lora-compat certify --certificate` wrote")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Verifies, and says what the certificate holds for."""
    try:
        document = verify(arguments.certificate)
    except CertificateError as error:
        print(f"refused: {error}", file=sys.stderr)
        return 1
    for subject in document["subjects"]:
        passed = sum(clause["verdict"] == "pass" for clause in subject["clauses"])
        print(f"{subject['class']}: certified, {passed} clauses passed, the others do not apply")
    environment = document["environment"]
    with_ = ", ".join(f"{name} {environment[name]}" for name in ("torch", "vllm", "triton", "python", "gpu"))
    print(f"contract version {document['contract_version']}, seed {document['run']['seed']}; {with_}")
    return 0
