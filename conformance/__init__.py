"""The conformance suite: contract, implementations under test, oracle, clause tests, certification, reports."""

from conformance.certification.api import NotCertified, certify

__all__ = ["NotCertified", "certify"]
