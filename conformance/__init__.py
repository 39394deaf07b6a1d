"""The conformance suite: contract, implementations under test, oracle, clause tests, certification, reports."""

from conformance.certification.api import CertificationFailed, Certified, NotCertifiable, NotCertified, certify

__all__ = ["CertificationFailed", "Certified", "NotCertifiable", "NotCertified", "certify"]
